"""How a judge's answer is read: the verdict at its very end, wherever else the answer speaks of verdicts.

A judge quotes what it judges, so a verdict counts only if nothing but white space, stops or emphasis follows it and it
stands in no quotation. What an answer under judgement says of itself is in the question, which is never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_END = r"[\s.*_]*\Z"
_LETTER = re.compile(r"\[\[\s*([ABC])\s*\]\]" + _END)
_NUMBER = re.compile(r"\[\[\s*(\d{1,3}(?:\.\d{1,3})?)\s*\]\]" + _END)
_GRADE = re.compile(r"\[\[\s*([^\[\]:\n]+?)\s*:\s*(\d{1,2}(?:\.\d{1,3})?)\s*\]\]")
_GRADES = re.compile(r"(?:\[\[\s*[^\[\]:\n]+?\s*:\s*\d{1,2}(?:\.\d{1,3})?\s*\]\][\s.*_,;-]*)+\Z")
_SCORE = re.compile(r'"score"\s*:\s*"?(\d(?:\.\d{1,3})?)')
_FENCE = re.compile(r"\s*```\s*\Z")
LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
"""What a verdict on two answers means for the one shown first."""
RATINGS = tuple(str(number) for number in range(1, 11))
SCALE = tuple(str(number) for number in range(1, 10))
FORCED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "pairwise": (tuple(LETTERS), "[[", "]]"),
    "scale": (SCALE, '{"score": ', "}"),
    "pointwise": (RATINGS, "[[", "]]"),
}
"""Of the forms that have few verdicts: all of them, and what stands before and after one in an answer that is nothing
else."""
MIDDLE, HALF = 5.0, 8.0
"""Of the preference scale of 1 to 9: where it is even, and how long it is."""


@dataclass(frozen=True)
class Verdict:
    """What was read, and where: `text[start:end]` of the answer is `symbol`."""

    symbol: str
    start: int
    end: int


Find = Callable[[str], "Verdict | None"]


def letter(text: str) -> Verdict | None:
    """`[[A]]`, `[[B]]` or `[[C]]` at the end."""
    return _last(_LETTER, text)


def rating(text: str) -> Verdict | None:
    """A number from 1 to 10 in double brackets at the end."""
    found = _last(_NUMBER, text)
    return found if found is not None and 1 <= float(found.symbol) <= 10 else None


def choice(count: int) -> Find:
    """The number of one of so many answers in double brackets at the end."""

    def find(text: str) -> Verdict | None:
        found = _last(_NUMBER, text)
        return found if found is not None and found.symbol.isdigit() and 1 <= int(found.symbol) <= count else None

    return find


def scale(text: str) -> Verdict | None:
    """The `score`, from 1 to 9, of a JSON object at the end, whatever else the object's texts say."""
    text = _FENCE.sub("", text)
    score = _json_at_end(text)
    score = score.get("score") if score is not None else None
    try:
        value = float(score) if isinstance(score, (int, float, str)) and not isinstance(score, bool) else 0.0
    except ValueError:
        return None
    if not 1 <= value <= 9:
        return None
    spots = [spot for spot in _SCORE.finditer(text) if float(spot[1]) == value]
    return Verdict(spots[-1][1], spots[-1].start(1), spots[-1].end(1)) if spots else None


def grades(text: str) -> dict[str, float]:
    """The grades `[[name: n]]`, 1 to 10, that end an answer, by lower-case name; empty without any."""
    run = _GRADES.search(text)
    if run is None or _quoted(text, run.start()):
        return {}
    found = {name.casefold(): float(number) for name, number in _GRADE.findall(run[0])}
    return {name: grade for name, grade in found.items() if 1 <= grade <= 10}


def first_better(score: float) -> float:
    """How much the first of two answers is preferred, from 1 (wholly) to 0, by a score of 1 (the first) to 9."""
    return 0.5 - (score - MIDDLE) / HALF


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def _last(pattern: re.Pattern[str], text: str) -> Verdict | None:
    found = pattern.search(text)
    if found is None or _quoted(text, found.start()):
        return None
    return Verdict(found[1], found.start(1), found.end(1))


def _quoted(text: str, start: int) -> bool:
    """Whether a place in an answer is inside a quotation: after an open quotation mark of its line, or on a line that
    begins with `>`."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    open_mark = before.count('"') % 2 == 1 or before.count("`") % 2 == 1 or before.count("“") > before.count("”")
    return open_mark or before.lstrip().startswith(">")


def _json_at_end(text: str) -> dict[str, Any] | None:
    """The JSON object that a text ends with: of several readings the one that begins first."""
    end = len(text.rstrip())
    if not text[:end].endswith("}"):
        return None
    decoder = json.JSONDecoder(strict=False)
    start = text.find("{")
    while start >= 0:
        try:
            value, stop = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            stop = -1
        if stop == end and isinstance(value, dict):
            return value
        start = text.find("{", start + 1)
    return None
