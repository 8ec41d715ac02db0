"""Options of a verb, one for each setting of a class: a setting that is added to the class is an option the same day.

They are made when the verb is called or explained, and not before, because the classes need pydantic and
`sawyer --help` should not wait for it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from sawyer.errors import SawyerError

if TYPE_CHECKING:
    from sawyer.settings import Settings

S = TypeVar("S", bound="Settings")
_GIVEN = "sawyer.options"
_WHOLE = "the options"  # where a complaint about several settings at once says that it comes from


def with_settings(*classes: str, leave_out: Sequence[str] = ()) -> type[TyperCommand]:
    """A kind of verb that has, besides its own options, one for each setting of some classes (`package.module:Class`).

    What was given is found by `given`.
    """

    class SettingsCommand(TyperCommand):
        made = False

        def get_params(self, ctx: Any) -> list[Any]:
            if not self.made:
                for name in classes:
                    self.params += _options(_load(name), leave_out)
                self.made = True
            return super().get_params(ctx)

        def invoke(self, ctx: Any) -> Any:
            names = {name for each in classes for name in _load(each).model_fields} - set(leave_out)
            values = {name: ctx.params.pop(name) for name in names}
            ctx.meta[_GIVEN] = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in values.items()
                if value is not None and value != ()  # a repeatable option that was not given is an empty tuple
            }
            return super().invoke(ctx)

    return SettingsCommand


def given(context: typer.Context, settings: type[S]) -> dict[str, Any]:
    """The values that were given on the command line for settings of a class, as text (or bool, or lists of text)."""
    return {name: value for name, value in context.meta[_GIVEN].items() if name in settings.model_fields}


def settings_from(settings: type[S], values: Mapping[str, Any]) -> S:
    """The settings that options give; what was not given is at its default.

    Raises:
        SawyerError: a value is not what the setting takes; a line each.
    """
    from sawyer.pipeline.complaints import refuse, validated
    from sawyer.pipeline.yaml_source import Source

    read = {name: _read(value, settings.model_fields[name].annotation, flag(name)) for name, value in values.items()}
    source = Source(_WHOLE, read, options={(name,): flag(name) for name in read})
    made, complaints = validated(settings, read, (), source)
    refuse([complaint.removeprefix(f"{_WHOLE}: the recipe: ") for complaint in complaints])
    assert made is not None
    return made


def flag(name: str) -> str:
    """`--top-k` for `top_k`."""
    return "--" + name.replace("_", "-")


def _options(settings: type[Settings], leave_out: Sequence[str]) -> list[Any]:
    """An option for each setting. Its value is read later, by `settings_from`: one set of rules and sentences."""
    parameters, hints = [], {}
    for name, field in settings.model_fields.items():
        if name in leave_out:
            continue
        kind, metavar = _kind(field.annotation)
        default = field.get_default(call_default_factory=True)
        text = (field.description or "").split("\n\n")[0]
        shown = "" if default in (None, (), [], {}) else f" Default: {_shown(default)}."
        option = typer.Option(flag(name) + (f"/--no-{flag(name)[2:]}" if kind is bool else ""), help=f"{text}{shown}")
        option.metavar = metavar
        hints[name] = Annotated[kind | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[name]))

    def verb(**_: Any) -> None:
        pass

    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    verb.__annotations__ = hints
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(verb)
    return list(typer.main.get_command(app).params)


def _kind(annotation: Any) -> tuple[Any, str | None]:
    """The type of option for a setting, and the word for its value in the help."""
    kinds = list(_without_none(annotation))
    if kinds == [bool]:
        return bool, None
    if len(kinds) == 1 and get_origin(kinds[0]) in (list, tuple):
        return list[str], _metavar(list(_without_none(get_args(kinds[0])[0])))
    return str, _metavar(kinds)


def _metavar(kinds: Sequence[Any]) -> str:
    choices = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    words = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}
    return "|".join([*choices, *(words.get(kind, "YAML") for kind in kinds if get_origin(kind) is not Literal)])


def _read(value: Any, annotation: Any, option: str) -> Any:
    """What was typed, as the setting's kind of value: text as it stands, anything else as YAML, as in recipes."""
    from sawyer.pipeline.yaml_source import parse

    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        items = next(kind for kind in _without_none(annotation) if get_origin(kind) in (list, tuple))
        return [_read(item, get_args(items)[0], option) for item in value]
    if all(kind is str or get_origin(kind) is Literal for kind in _without_none(annotation)):
        return value
    try:
        return parse(value, option).value
    except SawyerError:
        return value


def _without_none(annotation: Any) -> Iterator[Any]:
    """The members of a union but for None; of anything else, itself."""
    if get_origin(annotation) is Annotated:
        yield from _without_none(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _without_none(member)
    elif annotation is not type(None):
        yield annotation


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _load(name: str) -> type[Settings]:
    module, _, found = name.partition(":")
    return getattr(importlib.import_module(module), found)
