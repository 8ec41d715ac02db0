"""What a red team tries to get out of a model: harmful behaviours by category, and benign requests that look like them.

Read from tables and lists of others (HarmBench's columns, Mazeika et al. 2024; `goal` as in AdvBench and
JailbreakBench; our own), or from the small set that comes along, `behaviours.csv`. The texts of that set were written
for Sawyer, and are requests: nothing in it says how something harmful is done.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sawyer.data.csv_rows import csv_rows
from sawyer.data.files import SUFFIXES, RawRow, iter_rows, record_or_problem
from sawyer.data.prompts import TEXT_SUFFIXES, text_lines
from sawyer.data.records import Prompt, user
from sawyer.errors import SawyerError

BUILT_IN = Path(__file__).with_name("behaviours.csv")
NO_CATEGORY = "uncategorised"
_REQUEST = ("prompt", "goal", "behaviour", "behavior", "text")
"""Columns with the request, the first that is there. JailbreakBench has `Goal` beside a title called `Behavior`."""
_CATEGORY = ("semanticcategory", "category", "functionalcategory")
_ID = ("behaviorid", "behaviourid", "id")
_TRUTH = {"": False, "false": False, "0": False, "no": False, "true": True, "1": True, "yes": True}


@dataclass(frozen=True)
class Behaviour:
    """One thing that a model is asked for."""

    id: str
    category: str
    request: str
    """What is asked, as a user would."""
    context: str = ""
    """A text that the request is about; it stands before it (HarmBench's contextual behaviours)."""
    benign: bool = False
    """Whether it only looks harmful: a model that refuses it refuses too much."""
    tags: tuple[str, ...] = ()

    def prompt(self, request: str | None = None, system: str | None = None) -> Prompt:
        """The behaviour as a prompt, in other words where these are given; `info` says what it is."""
        asked = self.request if request is None else request
        turns = [user(f"{self.context}\n\n---\n\n{asked}" if self.context else asked)]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        return Prompt(tuple(turns), {"behaviour": self.id, "category": self.category, "benign": self.benign})


def built_in(benign: bool) -> list[Behaviour]:
    """The behaviours that come with Sawyer: the harmful ones, or those that look like them."""
    return [behaviour for behaviour in read_behaviours(BUILT_IN) if behaviour.benign == benign]


def read_behaviours(path: str | Path, *, benign: bool | None = None) -> list[Behaviour]:
    """The behaviours of a file: CSV, JSONL, JSON or parquet with one of the known columns, or text with one a line.

    Columns, in any case: the request is `prompt` (text or turns), `goal`, `behaviour` or `text`, its category
    `SemanticCategory`, `category` or `FunctionalCategory`. `BehaviorID` or `id`, `ContextString`, `Tags` and `benign`
    may be left out, as may the category. That of a text file is the file's name.

    Args:
        benign: what all of them are; the column `benign` (else harmful) where it is None.

    Raises:
        SawyerError: the file is missing, empty or of no known kind; a row has no request, or the id of another one.
    """
    path = Path(path)
    found: dict[str, Behaviour] = {}
    for row in _rows(path):
        behaviour = record_or_problem(row, partial(_behaviour, name=f"{path.stem}-{row.number}"))
        if isinstance(behaviour, str):
            raise SawyerError(f"{path}:{row.number}: {behaviour}; mend or remove the row")
        if behaviour.id in found:
            raise SawyerError(f"{path}:{row.number}: the id {behaviour.id!r} is that of another row; give it its own")
        found[behaviour.id] = behaviour
    if not found:
        raise SawyerError(f"{path} holds no behaviour; give a file with at least one")
    if benign is None:
        return list(found.values())
    return [Behaviour(b.id, b.category, b.request, b.context, benign, b.tags) for b in found.values()]


def read_all(paths: Sequence[str | Path], *, benign: bool | None = None) -> list[Behaviour]:
    """The behaviours of several files, each request once.

    Raises:
        SawyerError: as `read_behaviours`; two files give one id to different requests.
    """
    by_id: dict[str, Behaviour] = {}
    asked: set[tuple[str, str]] = set()
    for path in paths:
        for behaviour in read_behaviours(path, benign=benign):
            text = (behaviour.context, behaviour.request)
            if text in asked:
                continue
            if behaviour.id in by_id:
                raise SawyerError(
                    f"{path}: the id {behaviour.id!r} is that of another behaviour in a file before; rename one of them"
                )
            asked.add(text)
            by_id[behaviour.id] = behaviour
    return list(by_id.values())


def drawn(behaviours: Sequence[Behaviour], limit: int | None, seed: int) -> list[Behaviour]:
    """At most so many behaviours, as evenly as can be over the categories; which of a category, the seed says.

    They keep their order. None keeps all.
    """
    if limit is None or limit >= len(behaviours):
        return list(behaviours)
    by_category: dict[str, list[int]] = {}
    for number, behaviour in enumerate(behaviours):
        by_category.setdefault(behaviour.category, []).append(number)
    for category, numbers in by_category.items():
        random.Random(f"{seed}/{category}").shuffle(numbers)
    turns = [(turn, place, n) for place, own in enumerate(by_category.values()) for turn, n in enumerate(own)]
    return [behaviours[n] for n in sorted(n for _, _, n in sorted(turns)[:limit])]


def _rows(path: Path) -> Iterator[RawRow]:
    name = path.name.lower()
    if name.endswith(".csv"):
        yield from csv_rows(path)
    elif name.endswith(TEXT_SUFFIXES):
        for line in text_lines(path):
            value = None if line.value is None else {"text": line.value, "category": path.stem}
            yield RawRow(line.number, value, line.problem)
    elif name.endswith(SUFFIXES):
        yield from iter_rows(path)
    else:
        known = ", ".join((".csv", *SUFFIXES, *TEXT_SUFFIXES))
        raise SawyerError(f"{path} has none of the suffixes that behaviours are read from: {known}")


def _behaviour(row: Mapping[str, Any], name: str) -> Behaviour:
    cells = {str(key).strip().casefold(): value for key, value in row.items() if key is not None}
    info = cells.get("info")
    if isinstance(info, Mapping):  # a prompt that Sawyer wrote
        cells = {**{str(key).casefold(): value for key, value in info.items()}, **cells}
    request = next((cells[column] for column in _REQUEST if cells.get(column)), None)
    if request is None:
        raise SawyerError(f"there is no request; a column must be called {', '.join(_REQUEST[:-1])} or {_REQUEST[-1]}")
    if not isinstance(request, str):
        turns = Prompt(request).prompt
        if len(turns) != 1:
            raise SawyerError("the prompt has several turns, and a behaviour is one request")
        request = turns[0]["content"]
    if not request.strip():
        raise SawyerError("the request is empty")
    said = str(cells.get("benign") or "").strip().casefold()
    if said not in _TRUTH:
        raise SawyerError(f"`benign` is {said!r:.40}, write true or false")
    return Behaviour(
        id=_text(cells, _ID) or name,
        category=_text(cells, _CATEGORY) or NO_CATEGORY,
        request=request.strip(),
        context=_text(cells, ("contextstring", "context")),
        benign=_TRUTH[said],
        tags=tuple(tag.strip() for tag in _text(cells, ("tags",)).split(",") if tag.strip()),
    )


def _text(cells: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The first of the columns that has something in it."""
    return next((str(cells[column]).strip() for column in columns if cells.get(column) not in (None, "")), "")
