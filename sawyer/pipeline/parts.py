"""Parts of data: which ones an artifact will have, as far as the recipe tells, and whether stages name those."""

from __future__ import annotations

from sawyer.pipeline.nearest import did_you_mean
from sawyer.pipeline.recipe import PlannedStage, Recipe


def parts_of(recipe: Recipe, name: str) -> tuple[str, ...] | None:
    """The parts that a stage's artifact will have; None where its settings do not tell."""
    from sawyer.pipeline.stages import attributes, data, generate, judge_tuning, label, self_instruct

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
    return None


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
