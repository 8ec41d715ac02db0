"""Whether policies know the attributes that a recipe asks of them, as far as the recipe tells."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sawyer.data.attributes import Range, Scheme, required_scheme
from sawyer.errors import SawyerError
from sawyer.pipeline.recipe import PlannedStage, Recipe


def bad_attributes(recipe: Recipe, planned: PlannedStage) -> list[str]:
    """A sentence for each policy that a stage asks for attributes which it was not trained with."""
    complaints = []
    for location, policy, values in _asked(planned):
        try:
            scheme = _scheme(recipe, policy)
            if scheme is not None:
                scheme.filled(values, policy)
        except SawyerError as error:
            place = ("stages", planned.name, *location)
            complaints.append(f"{recipe.where(*place)}: {'.'.join(place)}: {error}")
    return complaints


def _asked(planned: PlannedStage) -> Iterator[tuple[tuple[str, ...], str, Mapping[str, int]]]:
    """Where a stage asks for attributes, of whom, and for which."""
    from sawyer.pipeline.stages import evaluate, generate

    match planned.settings:
        case generate.Settings() as settings if settings.attributes:
            yield ("attributes",), settings.model, settings.attributes
        case evaluate.Settings() as settings:
            for name, one in settings.asked.items():
                yield ("asked", name, "attributes"), one.policy, one.attributes


def _scheme(recipe: Recipe, policy: str) -> Scheme | None:
    """What a policy will know; None where only the run will tell.

    Raises:
        SawyerError: it is trained without attributes.
    """
    from sawyer.pipeline.stages import attributes, sft

    stages = {planned.name: planned.settings for planned in recipe.stages}
    if policy not in stages:
        folder = Path(os.path.expanduser(recipe.models[policy]))
        return required_scheme(folder, policy) if folder.is_dir() else None
    trained = stages[policy]
    if not isinstance(trained, sft.Settings) or trained.condition is None:
        raise SawyerError(
            f"{policy} is not trained with attributes; ask for them of a stage `sft` with `condition: attributes`"
        )
    data = stages.get(trained.data)
    if not isinstance(data, attributes.Settings) or data.model is not None:
        return None
    return Scheme({name: Range(0, len(own.edges), 0) for name, own in data.measured.items()})
