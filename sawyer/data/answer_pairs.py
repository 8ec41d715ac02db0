"""Pairs of answers to be judged, from plain files, beside what people said of them.

A row has `prompt`, `a` and `b`, and may have an `id`; every other column is a rater (see `labels`). Rows as LLMBar has
them (Zeng et al. 2024), `input`, `output_1`, `output_2` and `label`, are read as these, and the rater `label` says A
for 1 and B for 2.

A prompt is a text or a list of turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.data.csv_rows import csv_rows
from sawyer.data.files import SUFFIXES, LoadReport, raw_rows, record_or_problem
from sawyer.data.formats import turns_of
from sawyer.data.labels import CONTEXT, SWAPPED
from sawyer.data.records import Prompt, user
from sawyer.errors import SawyerError

LLMBAR = ("input", "output_1", "output_2", "label")
_LABELS = {"1": "A", "2": "B"}


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to a prompt, and the row that they stand in.

    Attributes:
        row: all its columns; `prompt`, `a` and `b` by these names.
    """

    id: str
    prompt: Prompt
    a: str
    b: str
    row: Mapping[str, Any]


@dataclass(frozen=True)
class AnswerPairs:
    """The usable pairs of a file, the columns that are raters, and what became of the other rows."""

    pairs: list[AnswerPair]
    raters: list[str]
    report: LoadReport


def read_answer_pairs(path: Path, *, max_dropped: float = 0.05, limit: int | None = None) -> AnswerPairs:
    """The pairs of a file.

    Args:
        max_dropped: share of rows that may be unusable.
        limit: only the first so many.

    Raises:
        SawyerError: the file cannot be read, holds no pair, holds an id twice, or too many rows are unusable.
    """
    if not path.name.endswith((".csv", *SUFFIXES)):
        raise SawyerError(f"{path} is not a file of pairs; known kinds are {', '.join(('.csv', *SUFFIXES))}")
    report, pairs = LoadReport(), []
    for raw in csv_rows(path) if path.name.endswith(".csv") else raw_rows(path):
        found = record_or_problem(raw, _converter(raw.number))
        if isinstance(found, str):
            report.drop(found, f"{path.name}:{raw.number}")
        else:
            report.kept += 1
            pairs.append(found)
    if not pairs:
        first = next((f"{where[0]}: {why}" for why, where in report.examples.items()), "it has no rows")
        raise SawyerError(f"{path} holds no pair of answers; {first}")
    bad = report.rows - report.kept
    if bad > max_dropped * report.rows:
        raise SawyerError(
            f"{path}: {bad} of {report.rows} rows are no pairs, more than the share of {max_dropped:g} allowed "
            f"({report}); mend or remove them, or raise --max-dropped"
        )
    ids: set[str] = set()
    for pair in pairs:
        if pair.id in ids:
            raise SawyerError(f"{path} has the id {pair.id!r} twice; give each pair one of its own")
        ids.add(pair.id)
    known = ("id", "prompt", *CONTEXT)
    columns = dict.fromkeys(name for pair in pairs for name in pair.row)
    raters = [name for name in columns if name and name not in known and not name.endswith(SWAPPED)]
    return AnswerPairs(pairs[:limit], raters, report)


def _converter(number: int) -> Callable[[Mapping[str, Any]], AnswerPair]:
    def convert(row: Mapping[str, Any]) -> AnswerPair:
        if None in row:
            raise SawyerError("it has more cells than the header")
        row = _as_ours(row)
        for name in ("prompt", "a", "b"):
            if name not in row:
                raise SawyerError(f"it has no column `{name}`")
        for name in ("a", "b"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise SawyerError(f"its `{name}` is no text")
        prompt = row["prompt"]
        turns = (user(prompt),) if isinstance(prompt, str) else tuple(turns_of(prompt))
        id = str(row["id"]).strip() if row.get("id") not in (None, "") else str(number)
        return AnswerPair(id, Prompt(turns), row["a"], row["b"], {**row, "id": id})

    return convert


def _as_ours(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of LLMBar's layout by our names; any other as it is."""
    if "prompt" in row or not set(LLMBAR[:3]) <= set(row):
        return row
    prompt, a, b, label = LLMBAR
    rest = {name: value for name, value in row.items() if name not in LLMBAR}
    said = {} if label not in row else {label: _LABELS.get(str(row[label]).strip(), row[label])}
    return {**rest, "prompt": row[prompt], "a": row[a], "b": row[b], **said}
