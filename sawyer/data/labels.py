"""Labels of the same items by several raters, people or judges, from plain files.

A file (.csv, .jsonl, .json or .parquet) has a row for each item. `id` names the item and `prompt` what it is about; the
columns of `CONTEXT` say what was compared; `NAME:swapped` is what rater NAME said of the same two completions with `b`
shown first. Every other column is a rater. Several files are joined by `id`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer.data.csv_rows import csv_rows
from sawyer.data.files import SUFFIXES, RawRow, raw_rows
from sawyer.errors import SawyerError

Label = float | str
CONTEXT = ("a", "b", "a_length", "b_length", "a_model", "b_model")
"""The texts of the two completions that were compared, how long they are, and who wrote them."""
SWAPPED = ":swapped"
MISSING = ("", "na", "nan", "null")
"""What stands for no label, in any case."""
NAMED = 3
"""So many examples are named in a sentence."""


@dataclass
class Labels:
    """What all files say.

    Attributes:
        ids: [n] the items, in the order in which they were met.
        prompts: [n] the prompt of each; its id where none is given.
        raters: name to [n] labels: numbers where they read as numbers, else text; None is missing.
        swapped: name to [n] labels of the swapped order, for raters that have them.
        context: column to [n] values, for the columns of `CONTEXT` that are there.
        notes: what was wrong with the files, a sentence each.
        has_prompts: whether a file has the column `prompt`.
    """

    ids: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    raters: dict[str, list[Label | None]] = field(default_factory=dict)
    swapped: dict[str, list[Label | None]] = field(default_factory=dict)
    context: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    has_prompts: bool = False


@dataclass
class _File:
    path: Path
    rows: dict[str, Mapping[str, Any]]
    columns: list[str]


def read_labels(paths: Sequence[str | Path], only: Sequence[str] = ()) -> Labels:
    """The labels of one file or more.

    Rows that cannot be used, ids that stand twice or in some files only, and prompts that differ are noted and do not
    stop the rest: an item that a file lacks has no labels of that file's raters.

    Args:
        paths: the files; a rater that is in several of them is called FILE.RATER, with FILE's name without its suffix.
        only: the columns that are raters, also such as have another meaning by their name; all others when left out.

    Raises:
        SawyerError: a file cannot be read or has no usable row; several files and no `id`; an unknown name in `only`;
            files that have the same name, and a rater too.
    """
    labels = Labels()
    files = [_read(Path(path), len(paths) > 1, labels.notes) for path in paths]
    _check_only(only, files)
    labels.ids = list(dict.fromkeys(id for file in files for id in file.rows))
    _note_unknown(files, labels)
    raters = [[name for name in file.columns if (name in only if only else _is_rater(name))] for file in files]
    held_by = Counter(name for own in raters for name in own)
    called = {
        (number, name): name if held_by[name] == 1 else f"{file.path.name.split('.')[0]}.{name}"
        for number, (file, own) in enumerate(zip(files, raters, strict=True))
        for name in own
    }
    for (number, name), full in called.items():
        if full in labels.raters:
            raise SawyerError(f"two files hold a rater called {full!r}; rename a column or a file")
        labels.raters[full] = [_label(value) for value in _column(files[number], name, labels.ids)]
    for number, file in enumerate(files):
        for column in file.columns:
            if column.endswith(SWAPPED) and column not in only:
                base = column.removesuffix(SWAPPED)
                whose = [called[key] for key in called if key[1] == base and (key[0] == number or held_by[base] == 1)]
                if len(whose) == 1:
                    labels.swapped[whose[0]] = [_label(value) for value in _column(file, column, labels.ids)]
                elif not only or base in only:
                    labels.notes.append(f"column {column!r} of {file.path} belongs to no rater and is left out")
    for column in CONTEXT:
        if column not in only and any(column in file.columns for file in files):
            labels.context[column] = _first(files, column, labels.ids)
    labels.has_prompts = any("prompt" in file.columns for file in files)
    prompts = _first(files, "prompt", labels.ids)
    labels.prompts = [id if prompt is None else _text(prompt) for id, prompt in zip(labels.ids, prompts, strict=True)]
    _note_prompts(files, labels)
    return labels


def _read(path: Path, joined: bool, notes: list[str]) -> _File:
    rows: dict[str, Mapping[str, Any]] = {}
    columns: dict[str, None] = {}
    problems: dict[str, list[int]] = {}
    twice: dict[str, list[int]] = {}
    usable = list(_rows(path, problems))
    for row in usable:
        columns |= dict.fromkeys(row.value)
    if joined and "id" not in columns:
        raise SawyerError(f"{path} has no column `id`, by which several files are joined; add one, or give one file")
    for row in usable:
        value = row.value.get("id") if "id" in columns else row.number
        if value is None or _text(value).strip() == "":
            problems.setdefault("without an `id`", []).append(row.number)
            continue
        id = _text(value).strip()
        if id in rows:
            twice.setdefault(id, []).append(row.number)
        else:
            rows[id] = row.value
    for problem, numbers in problems.items():
        notes.append(f"{path}: {_count(numbers, 'row')} {problem} left out ({_some(numbers, 'row ')})")
    if twice:
        notes.append(f"{path}: {_count(twice, 'id')} on several rows, of which the first is taken ({_some(twice)})")
    if not rows:
        raise SawyerError(f"{path} has no usable row; give a file with a row for each item")
    return _File(path, rows, list(columns))


def _rows(path: Path, problems: dict[str, list[int]]) -> Iterator[RawRow]:
    if not path.name.endswith((".csv", *SUFFIXES)):
        raise SawyerError(f"{path} is not a file of labels; known kinds are {', '.join(('.csv', *SUFFIXES))}")
    for row in csv_rows(path) if path.name.endswith(".csv") else raw_rows(path):
        if row.problem is not None or not isinstance(row.value, Mapping):
            problems.setdefault("that cannot be read", []).append(row.number)
        elif None in row.value:
            problems.setdefault("with more cells than the header", []).append(row.number)
        else:
            yield RawRow(row.number, {str(name).strip(): value for name, value in row.value.items()})


def _is_rater(name: str) -> bool:
    return bool(name) and name not in ("id", "prompt", *CONTEXT) and not name.endswith(SWAPPED)


def _check_only(only: Sequence[str], files: Sequence[_File]) -> None:
    there = dict.fromkeys(name for file in files for name in file.columns)
    for name in only:
        if name not in there:
            raise SawyerError(f"--rater {name}: no file has that column; there are {', '.join(there)}")


def _note_unknown(files: Sequence[_File], labels: Labels) -> None:
    first = files[0]
    for other in files[1:]:
        unknown = [id for id in other.rows if id not in first.rows]
        lacking = [id for id in first.rows if id not in other.rows]
        if unknown:
            labels.notes.append(f"{other.path}: {_count(unknown, 'id')} unknown to {first.path} ({_some(unknown)})")
        if lacking:
            labels.notes.append(f"{other.path}: {_count(lacking, 'id')} of {first.path} missing ({_some(lacking)})")


def _note_prompts(files: Sequence[_File], labels: Labels) -> None:
    given = {id: {_text(found) for found in _filled(files, "prompt", id)} for id in labels.ids}
    differing = [id for id, prompts in given.items() if len(prompts) > 1]
    if differing:
        labels.notes.append(
            f"{_count(differing, 'id')} with another prompt in another file, of which the first is taken "
            f"({_some(differing)})"
        )
    without = [id for id, prompts in given.items() if not prompts]
    if without and labels.has_prompts:
        labels.notes.append(
            f"{_count(without, 'item')} without a prompt, each of which counts as one of its own ({_some(without)})"
        )


def _column(file: _File, name: str, ids: Sequence[str]) -> list[Any]:
    return [file.rows[id].get(name) if id in file.rows else None for id in ids]


def _first(files: Sequence[_File], name: str, ids: Sequence[str]) -> list[Any]:
    """For each item what the first file with anything in that column says."""
    return [next(_filled(files, name, id), None) for id in ids]


def _filled(files: Sequence[_File], name: str, id: str) -> Iterator[Any]:
    """What the files say of an item in a column, without those that say nothing."""
    found = (file.rows[id].get(name) for file in files if id in file.rows)
    return (value for value in found if value is not None and value != "")


def _label(value: Any) -> Label | None:
    """A number where it reads as one, otherwise text; None where there is no label."""
    if value is None:
        return None
    text = _text(value).strip()
    if text.casefold() in MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _count(things: Any, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _some(things: Any, word: str = "") -> str:
    listed = [f"{word}{thing}" for thing in things]
    return ", ".join(listed[:NAMED]) + (", ..." if len(listed) > NAMED else "")
