"""A constitution as people write it: a YAML file of principles with weights, and examples of critique and revision.

principles:
  - The answer must not help anyone to hurt others.          # weight 1
  - {principle: "It should be kind.", weight: 0.5, name: kindness}
examples:                                                    # may be left out
  - {prompt: ..., response: ..., principle: ..., critique: ..., revision: ...}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sawyer.data.files import read_bytes
from sawyer.errors import SawyerError
from sawyer.methods import critique
from sawyer.methods.critique import Constitution
from sawyer.pipeline.complaints import refuse, validated
from sawyer.pipeline.nearest import did_you_mean
from sawyer.pipeline.yaml_source import Source, parse
from sawyer.settings import Settings

BUILT_IN = Path(critique.__file__).with_name("constitution.yaml")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty; write it, or leave the item out")
    return " ".join(value.split())


Text = Annotated[str, AfterValidator(_text)]


class PrincipleSettings(Settings):
    """A principle of a file."""

    principle: Text
    """What answers should follow, as a sentence."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often it is drawn, beside the others; leave a principle out that is never to be drawn."""
    name: str = ""
    """What figures call it; by default its number."""
    critique: str = ""
    """How a critique by it is asked for; in general words when left out."""
    revision: str = ""
    """How a revision is asked for, likewise."""


class ExampleSettings(Settings):
    """An example of a file."""

    prompt: Text
    """What a user asks."""
    response: Text
    """An answer that could be better."""
    principle: Text
    """The principle that it goes against."""
    critique: Text
    """Where."""
    revision: Text
    """The better answer."""


class ConstitutionFile(Settings):
    """The whole file."""

    principles: list[PrincipleSettings]
    examples: list[ExampleSettings] = Field(default_factory=list)


def load_constitution(path: str | Path | None = None) -> Constitution:
    """The constitution in a file; Sawyer's own where there is none.

    Raises:
        SawyerError: the file cannot be read, has no principles, or something in it is wrong; with file and line.
    """
    path = BUILT_IN if path is None else Path(path)
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise SawyerError(f"{path} is not UTF-8 text; a constitution is a YAML file") from None
    source = parse(text, str(path))
    _refuse_other_shapes(source, path)
    given, complaints = validated(ConstitutionFile, _written_out(source.value), (), source)
    refuse(complaints)
    assert given is not None
    seen: dict[str, int] = {}
    principles = []
    for number, one in enumerate(given.principles):
        name = one.name or f"principle {number + 1}"
        if name in seen or one.principle in seen:
            where = source.where(("principles", number))
            before = seen.get(name, seen.get(one.principle, 0))
            raise SawyerError(
                f"{where}: principle {number + 1} has the name or the text of principle {before + 1}; keep one of them"
            )
        seen |= {name: number, one.principle: number}
        principles.append(
            critique.Principle(one.principle, one.weight, name, one.critique.strip(), one.revision.strip())
        )
    examples = tuple(critique.Example(**example.model_dump()) for example in given.examples)
    return Constitution(tuple(principles), examples)


def _refuse_other_shapes(source: Source, path: Path) -> None:
    """Raises SawyerError where the document is no mapping with a list of principles."""
    value = source.value
    if not isinstance(value, dict):
        raise SawyerError(f"{path}:1: a constitution is a mapping with `principles`, a list; this is not one")
    unknown = next((key for key in value if key not in ConstitutionFile.model_fields), None)
    if unknown is not None:
        suggestion = did_you_mean(unknown, ConstitutionFile.model_fields, "it has")
        raise SawyerError(f"{source.where((unknown,))}: a constitution has no '{unknown}'{suggestion}")
    if not isinstance(value.get("principles"), list) or not value["principles"]:
        raise SawyerError(
            f"{source.where(('principles',))}: the constitution has no principles; list at least one under `principles`"
        )


def _written_out(value: dict[str, Any]) -> dict[str, Any]:
    """The document with plain texts among the principles as mappings."""
    principles = [{"principle": one} if isinstance(one, str) else one for one in value["principles"]]
    return {**value, "principles": principles}
