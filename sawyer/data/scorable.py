"""What a row holds to be scored: a prompt and its completions, in the order in which the row has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sawyer.data.formats import CONVERTERS, Format
from sawyer.data.hh import is_hh
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt
from sawyer.errors import SawyerError

AUTO = "auto"
"""What asks for the format to be found."""


@dataclass(frozen=True)
class Scorable:
    """The completions of one row: chosen before rejected, else as they are listed."""

    prompt: Prompt
    completions: tuple[str, ...]


def check_format(format: str) -> None:
    """Raises SawyerError where there is no such format of rows."""
    if format not in (AUTO, *get_args(Format)):
        raise SawyerError(f"--format is {format!r}; choose {AUTO}, {', '.join(get_args(Format))}")


def converter(format: str) -> Callable[[Mapping[str, Any]], Scorable]:
    """What makes a `Scorable` of a row in one of the formats of `data.formats`, or of one that `sawyer generate` wrote.

    It raises SawyerError, with the reason, for a row that holds nothing to score.
    """
    convert = CONVERTERS[format]

    def scorable(row: Mapping[str, Any]) -> Scorable:
        if row.get("samples") is not None:
            return _sampled(row)
        match convert(row):
            case Comparison() as record:
                return Scorable(Prompt(record.prompt, record.info), _as_listed(record, row))
            case Labelled() as record:
                return Scorable(Prompt(record.prompt, record.info), (record.completion,))
            case Conversation(messages=(*before, {"role": "assistant", "content": answer})) as record:
                return Scorable(Prompt(tuple(before), record.info), (answer,))
            case Conversation():
                raise SawyerError("the conversation does not end with an answer")
        raise SawyerError("the row has a prompt and no completion to score")

    return scorable


def by_prompt(
    rows: Sequence[Scorable], characters: int
) -> tuple[list[tuple[Prompt, list[str]]], list[list[tuple[int, int]]]]:
    """The completions of equal prompts together, so that a prompt that several rows share is read once.

    Args:
        characters: how long the completions that stand together may be; what exceeds it begins anew. It bounds the
            memory that one prompt takes, however many completions it has.

    Returns:
        the groups; and for each row, for each of its completions, the number of its group and its place in there.
    """
    groups: list[tuple[Prompt, list[str]]] = []
    places: list[list[tuple[int, int]]] = []
    room: list[int] = []
    latest: dict[str, int] = {}
    for row in rows:
        key = json.dumps([list(row.prompt.prompt), dict(row.prompt.info)], sort_keys=True, default=str)
        own = []
        for text in row.completions:
            at = latest.get(key)
            if at is None or room[at] < len(text):
                at = latest[key] = len(groups)
                groups.append((row.prompt, []))
                room.append(characters)
            own.append((at, len(groups[at][1])))
            groups[at][1].append(text)
            room[at] -= len(text)
        places.append(own)
    return groups, places


def _sampled(row: Mapping[str, Any]) -> Scorable:
    """A row of `sawyer generate`: `prompt` and `samples`, each with its `text`."""
    info = row.get("info") or {}
    texts = tuple(sample["text"] for sample in row["samples"])
    if not texts:
        raise SawyerError("the row has no sample")
    if not all(isinstance(text, str) for text in texts):
        raise SawyerError("a sample has no `text`")
    return Scorable(Prompt(row["prompt"], json.loads(info) if isinstance(info, str) else info), texts)


def _as_listed(record: Comparison, row: Mapping[str, Any]) -> tuple[str, ...]:
    """A comparison is sorted by the scores that its row has; this undoes it."""
    if is_hh(row):
        better_last = isinstance(row.get("text"), list) and row.get("score") and row["score"][1] > row["score"][0]
        return record.completions[::-1] if better_last else record.completions
    if record.scores is None:
        return record.completions
    order = sorted(range(len(record.scores)), key=lambda i: -float(row["scores"][i]))
    listed = [""] * len(order)
    for place, i in enumerate(order):
        listed[i] = record.completions[place]
    return tuple(listed)
