"""pydantic's complaints about settings, as sentences for the person who wrote the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sawyer.errors import SawyerError
from sawyer.pipeline.nearest import did_you_mean
from sawyer.pipeline.yaml_source import Location, Source, dotted

MAX_COMPLAINTS = 5

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: Any, location: Location, source: Source) -> tuple[M | None, list[str]]:
    """The settings that a part of a document gives, or else what is wrong with it, a sentence each.

    Types are strict (no numbers out of text), except that lists stand for tuples and text for paths and enums.
    """
    try:
        return model.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        complaints = [_sentence(item, model, value, location, source) for item in error.errors(include_url=False)]
        return None, list(dict.fromkeys(complaints))


def refuse(complaints: list[str]) -> None:
    """Raise the first few complaints, one a line, if there are any."""
    if complaints:
        raise SawyerError("\n".join(complaints[:MAX_COMPLAINTS]))


def _sentence(item: Any, model: type[BaseModel], value: Any, location: Location, source: Source) -> str:
    inside = _written(item["loc"], value)
    place = (*location, *inside)
    kind, given = item["type"], item.get("input")
    if kind in ("extra_forbidden", "missing"):
        name = str(item["loc"][-1])
        owner = inside[:-1] if inside and str(inside[-1]) == name and kind == "extra_forbidden" else inside
        whole = (*location, *owner)
        who = dotted(whole) or "the recipe"
        if kind == "missing":
            return f"{source.where(whole)}: {who} needs the setting '{name}'; add it"
        fields = _fields(model, item["loc"][:-1])
        suggestion = did_you_mean(name, fields, "its settings are") or "; it takes no settings"
        return f"{source.where((*whole, name))}: {who} has no setting '{name}'{suggestion}"
    where, who = source.where(place), dotted(place) or "the recipe"
    shown = "a mapping" if isinstance(given, dict) else "a list" if isinstance(given, list) else repr(given)
    if kind == "literal_error":
        choices = [str(choice) for choice in _choices(model, item["loc"])]
        return f"{where}: {who} should be {item['ctx']['expected']}, not {shown}{_near_only(given, choices)}"
    if kind in ("value_error", "assertion_error"):
        return f"{where}: {who}: {item['msg'].partition(', ')[2]}"
    message = item["msg"].replace("Input should", "should").replace("valid dictionary", "mapping")
    if kind == "model_type":
        message = "should be a mapping of settings"
    if kind == "none_required":
        message = "should be left empty"
    separator = " " if message.startswith("should") else ": "
    return f"{where}: {who}{separator}{message}, not {shown}"


def _near_only(given: Any, choices: list[str]) -> str:
    suggestion = did_you_mean(given, choices)
    return suggestion if "did you mean" in suggestion else ""


def _written(loc: tuple[str | int, ...], value: Any) -> Location:
    """The parts of pydantic's location that are in the document (it adds names for the branches of a union)."""
    path: list[str | int] = []
    for part in loc:
        in_mapping = isinstance(value, dict) and part in value
        if in_mapping or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            path.append(part)
    return tuple(path)


def _fields(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The names of the settings that a nested model takes."""
    models: list[type[BaseModel]] = [model]
    for part in loc:
        inner = [m for one in models for m in _models(getattr(one.model_fields.get(str(part)), "annotation", None))]
        models = inner or models
    return [name for one in models for name in one.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    return _leaves(annotation, lambda leaf: isinstance(leaf, type) and issubclass(leaf, BaseModel))


def _choices(model: type[BaseModel], loc: tuple[str | int, ...]) -> Iterator[Any]:
    for part in loc:
        info = model.model_fields.get(str(part))
        if info is not None:
            model = next(_models(info.annotation), model)
            yield from _leaves(info.annotation, lambda leaf: isinstance(leaf, str))


def _leaves(annotation: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    if wanted(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from _leaves(argument, wanted)
