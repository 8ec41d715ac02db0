"""Reading the fields of somebody else's rows: each either what its card says, or the reason why the row is bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.data.formats import turns_of
from sawyer.data.hh import check_alternation
from sawyer.data.records import Message, user
from sawyer.errors import SawyerError


def text(row: Mapping[str, Any], key: str) -> str:
    """Text that is not blank."""
    value = row.get(key)
    if value is None:
        raise SawyerError(f"`{key}` is missing")
    if not isinstance(value, str):
        raise SawyerError(f"`{key}` is not text")
    if not value.strip():
        raise SawyerError(f"`{key}` is empty")
    return value


def number(row: Mapping[str, Any], key: str) -> float:
    """A finite number, written as one or as text."""
    value = row.get(key)
    if value is None:
        raise SawyerError(f"`{key}` is missing")
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise SawyerError(f"`{key}` is not a number") from None
    if not math.isfinite(found):
        raise SawyerError(f"`{key}` is not a finite number")
    return found


def either(row: Mapping[str, Any], key: str, choices: Sequence[int]) -> int:
    """One of some whole numbers."""
    value = number(row, key)
    if value not in choices:
        raise SawyerError(f"`{key}` is none of {', '.join(map(str, choices))}")
    return int(value)


def name(row: Mapping[str, Any], key: str) -> str | None:
    """Text that may be missing, such as the name of a model."""
    value = row.get(key)
    return value if isinstance(value, str) and value else None


def part(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object inside the row."""
    value = row.get(key)
    if not isinstance(value, Mapping):
        raise SawyerError(f"`{key}` is missing or not an object")
    return value


def items(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects, which `datasets` may give as an object of lists."""
    value = row.get(key)
    if isinstance(value, Mapping):
        columns = list(value)
        value = [dict(zip(columns, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SawyerError(f"`{key}` is missing or not a list")
    if not all(isinstance(item, Mapping) for item in value):
        raise SawyerError(f"`{key}` has an item that is not an object")
    return list(value)


def question(content: str) -> tuple[Message, ...]:
    """The prompt that is one turn of the user."""
    return (user(content),)


def dialogue(turns: Any) -> tuple[Message, ...]:
    """The prompt that is a dialogue up to a turn of the user.

    Raises:
        SawyerError: turns do not alternate, are empty, or end with an answer.
    """
    messages = turns_of(turns)
    check_alternation(messages)
    if not messages or messages[-1]["role"] != "user":
        raise SawyerError("the prompt does not end with a turn of the user")
    return tuple(messages)
