"""Attributes that an answer is asked to have (SteerLM, Dong et al. 2023, arXiv 2310.05344): how a prompt says them, and
which of them a policy knows.

    What is a glacier?

    [attributes] helpfulness:4,verbosity:1

The line ends the last turn before the answer, so any chat template writes it and a prompt's tokens stay a prefix of
prompt + completion; NVIDIA's code puts it after the assistant's header instead. The last such line of a turn is the one
that counts: what a person writes cannot displace it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sawyer.data.records import Conversation, Message, Prompt
from sawyer.errors import SawyerError

ATTRIBUTES = "attributes.json"
"""The file beside a policy's weights that says which attributes it was trained with."""
MARK = "\n\n[attributes] "
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What an attribute may be called."""
_OF_RANGE = ("lowest", "highest", "usual")
_VALUES = re.compile(rf"{NAME.pattern}:-?\d+(?:,{NAME.pattern}:-?\d+)*")


@dataclass(frozen=True)
class Range:
    """The values of one attribute that a policy was trained with; `usual` is their median."""

    lowest: int
    highest: int
    usual: int


@dataclass(frozen=True)
class Scheme:
    """The attributes that a policy was trained with, in the order in which a prompt names them."""

    ranges: Mapping[str, Range]

    @classmethod
    def of(cls, values: Iterable[Mapping[str, int]]) -> Scheme:
        """The attributes of training examples: names in alphabetical order, each with the values that occur.

        Raises:
            SawyerError: there are none, or one has a name that a prompt cannot say.
        """
        found: dict[str, list[int]] = {}
        for own in values:
            for name, value in own.items():
                found.setdefault(name, []).append(value)
        if not found:
            raise SawyerError("no example has attributes; relabel them with a stage `attributes`")
        for name in found:
            check_name(name)
        ordered = {name: sorted(found[name]) for name in sorted(found)}
        return cls({name: Range(own[0], own[-1], own[(len(own) - 1) // 2]) for name, own in ordered.items()})

    def filled(self, asked: Mapping[str, int], model: str = "the model") -> dict[str, int]:
        """Every attribute with the value that is asked for, or else its usual one: prompts in training name them all.

        Raises:
            SawyerError: an attribute that the model does not know, or a value that it has not seen.
        """
        for name, value in asked.items():
            if name not in self.ranges:
                raise SawyerError(
                    f"{model} was not trained with an attribute '{name}'; it knows {', '.join(self.ranges)}"
                )
            known = self.ranges[name]
            if not known.lowest <= value <= known.highest:
                raise SawyerError(
                    f"{name} is to be {value}, but {model} was trained with {name} from {known.lowest} to "
                    f"{known.highest}; ask for one of these"
                )
        return {name: asked.get(name, known.usual) for name, known in self.ranges.items()}

    def save(self, folder: Path | str) -> None:
        """Write `attributes.json`."""
        ranges = {name: asdict(known) for name, known in self.ranges.items()}
        (Path(folder) / ATTRIBUTES).write_text(json.dumps({"format": 1, "attributes": ranges}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> Scheme | None:
        """What `save` wrote; None where a model was trained without attributes.

        Raises:
            SawyerError: the file is damaged.
        """
        file = Path(folder) / ATTRIBUTES
        if not file.is_file():
            return None
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))["attributes"]
            ranges = {name: Range(**{key: int(own[key]) for key in _OF_RANGE}) for name, own in rows.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SawyerError(
                f"{file} is not what a stage `sft` with `condition` writes: copy the model again"
            ) from error
        return cls(ranges)


def required_scheme(folder: Path | str, model: str) -> Scheme:
    """The scheme of a policy that is asked for attributes.

    Raises:
        SawyerError: it was trained without.
    """
    scheme = Scheme.load(folder)
    if scheme is None:
        raise SawyerError(
            f"{model} was not trained with attributes, for its folder has no {ATTRIBUTES}; ask for them of a model "
            "that a stage `sft` with `condition: attributes` made"
        )
    return scheme


def check_name(name: str) -> None:
    """Raises SawyerError where a prompt cannot name an attribute so."""
    if not NAME.fullmatch(name):
        raise SawyerError(f"an attribute cannot be called {name!r}; use letters, digits, - and _, a letter first")


def conditioned(messages: Sequence[Message], values: Mapping[str, int]) -> tuple[Message, ...]:
    """A conversation that waits for the assistant, asking for an answer with these attributes."""
    line = ",".join(f"{name}:{value}" for name, value in values.items())
    *before, last = messages
    return (*before, {"role": last["role"], "content": f"{last['content']}{MARK}{line}"})


def unconditioned(messages: Sequence[Message]) -> tuple[tuple[Message, ...], dict[str, int] | None]:
    """The conversation without what `conditioned` added, and the attributes; None where it asks for none."""
    *before, last = messages
    content, mark, line = last["content"].rpartition(MARK)
    if not mark or not _VALUES.fullmatch(line):
        return tuple(messages), None
    pairs = (pair.split(":") for pair in line.split(","))
    return (*before, {"role": last["role"], "content": content}), {name: int(value) for name, value in pairs}


def conditioned_prompt(prompt: Prompt, values: Mapping[str, int]) -> Prompt:
    return Prompt(conditioned(prompt.prompt, values), prompt.info)


def values_of(record: Conversation) -> dict[str, int]:
    """The attributes of a conversation's last answer, from its `info`, to the nearest whole number; what is null is
    left out.

    Raises:
        SawyerError: it has none, or something else than finite numbers.
    """
    own = record.info.get("attributes")
    begins = f"the conversation that begins {record.messages[0]['content'][:60]!r}"
    hint = "relabel the data with a stage `attributes`"
    if not isinstance(own, Mapping) or not any(value is not None for value in own.values()):
        raise SawyerError(f"{begins} has no `attributes` in its `info`; {hint}")
    values = {}
    for name, value in own.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SawyerError(f"{begins} has the attribute '{name}' {value!r}, which is no number; {hint}")
        values[name] = nearest(value)
    return values


def nearest(value: float) -> int:
    """The nearest whole number; a half goes up."""
    return math.floor(value + 0.5)


def parse_attributes(text: str) -> dict[str, int]:
    """What `helpfulness=4,verbosity=1` asks for.

    Raises:
        SawyerError: it is not written so, or names one twice.
    """
    asked: dict[str, int] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not NAME.fullmatch(name) or not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
            raise SawyerError(f"attributes are written NAME=NUMBER,NAME=NUMBER and whole numbers, not {part.strip()!r}")
        if name in asked:
            raise SawyerError(f"the attribute {name} is asked for twice")
        asked[name] = int(value)
    return asked


def counts_of(values: Sequence[Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """How many examples have each value of each attribute."""
    counts: dict[str, dict[int, int]] = {}
    for own in values:
        for name, value in own.items():
            of_name = counts.setdefault(name, {})
            of_name[value] = of_name.get(value, 0) + 1
    return {name: {str(value): own[value] for value in sorted(own)} for name, own in sorted(counts.items())}
