"""Parts of data: which ones an artifact will have, as far as the recipe tells, and whether stages name those."""

from __future__ import annotations

from sawyer.pipeline.nearest import did_you_mean
from sawyer.pipeline.recipe import PlannedStage, Recipe


def parts_of(recipe: Recipe, name: str) -> tuple[str, ...] | None:
    """The parts that a stage's artifact will have; None where its settings do not tell."""
    from sawyer.pipeline.stages import (
        attributes,
        critique,
        data,
        generate,
        judge_tuning,
        label,
        redteam,
        self_instruct,
    )

    settings = next((planned.settings for planned in recipe.stages if planned.name == name), None)
    match settings:
        case data.Settings():
            return tuple(settings.parts or settings.split)
        case generate.Settings() | judge_tuning.Settings():
            return tuple(settings.parts)
        case self_instruct.Settings():
            return tuple(settings.split)
        case attributes.Settings():
            return tuple(settings.parts or ()) or parts_of(recipe, settings.data)
        case label.Settings():
            known = [parts_of(recipe, source) for source in settings.sources]
            return None if None in known else tuple(dict.fromkeys(part for own in known for part in own or ()))
        case redteam.Settings(data=None):
            return (*settings.split, redteam.BENIGN)
        case redteam.Settings():
            return tuple(settings.parts) or parts_of(recipe, str(settings.data))
        case critique.Settings():
            kinds = (critique.REVISIONS, critique.PAIRS) if settings.rounds else (critique.PAIRS,)
            return tuple(f"{part}-{kind}" for part in settings.parts for kind in kinds)
    return None


def other_classifiers(recipe: Recipe, planned: PlannedStage) -> list[str]:
    """A sentence where a `redteam` stage is compared with an earlier one that judges in another way."""
    from sawyer.pipeline.stages import redteam

    settings = planned.settings
    if not isinstance(settings, redteam.Settings):
        return []
    before = next((one.settings for one in recipe.stages if one.name == settings.data), None)
    if not isinstance(before, redteam.Settings) or before.classifier == settings.classifier:
        return []
    location = ("stages", planned.name, "classifier")
    return [
        f"{recipe.where(*location)}: {'.'.join(location)} differs from that of '{settings.data}', so the two could not "
        "be compared; give both the same"
    ]


def bad_parts(recipe: Recipe, planned: PlannedStage) -> list[str]:
    """A sentence for each part that a stage names (`part`, `validation`, `calibrate`, `parts`) and its `data` lacks."""
    source = getattr(planned.settings, "data", None)
    known = parts_of(recipe, source) if isinstance(source, str) else None
    if known is None:
        return []
    complaints = []
    for setting in ("part", "validation", "calibrate", "parts"):
        given = getattr(planned.settings, setting, None)
        for place, part in enumerate(given) if isinstance(given, list) else [(None, given)]:
            if isinstance(part, str) and part not in known:
                location = ("stages", planned.name, setting, *(() if place is None else (place,)))
                who, suggestion = ".".join(map(str, location)), did_you_mean(part, known, "its parts are")
                complaints.append(f"{recipe.where(*location)}: {who}: '{source}' has no part '{part}'{suggestion}")
    return complaints
