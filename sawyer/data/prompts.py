"""Prompts out of a file that somebody wrote by hand, exported or found: what can be asked, and which rows cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.data.files import SUFFIXES, RawRow, raw_rows, read_bytes, record_or_problem
from sawyer.data.formats import CONVERTERS, detect, turns_of
from sawyer.data.records import Prompt, Record, user
from sawyer.errors import SawyerError

TEXT_SUFFIXES = (".txt", ".txt.gz")


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, each with its row (of text and JSONL: its line), counted from 1, and the unusable rows."""

    prompts: tuple[Prompt, ...]
    rows: tuple[int, ...]
    problems: tuple[tuple[int, str], ...]


def read_prompts(path: str | Path, *, system: str | None = None) -> PromptFile:
    """The prompts of a text file (one a line; empty lines are skipped), or of a JSONL, JSON or parquet file.

    A row is a text, or an object with `prompt` (text or turns), with `messages` that end with the user's turn, or in
    any format that `formats` knows, of which the first prompt is taken. `info` goes along.

    Args:
        system: a system turn to put before the prompts that have none.

    Raises:
        SawyerError: the file is missing, empty, damaged or of no known kind, or has no usable row.
    """
    path = Path(path)
    rows = text_lines(path) if path.name.endswith(TEXT_SUFFIXES) else _rows(path)
    objects = [row.value for row in rows if isinstance(row.value, Mapping) and not _is_plain(row.value)]
    format = detect(objects, path) if objects else "trl"

    def convert(row: Mapping[str, Any]) -> Record:
        return _prompt(row, format, system)

    prompts, numbers, problems = [], [], []
    for row in rows:
        value = {"prompt": row.value} if isinstance(row.value, str) else row.value
        found = record_or_problem(RawRow(row.number, value, row.problem), convert)
        if isinstance(found, Prompt):
            prompts.append(found)
            numbers.append(row.number)
        else:
            problems.append((row.number, str(found)))
    if not rows:
        raise SawyerError(f"{path} has no rows; give a file with at least one prompt")
    if not prompts:
        number, problem = problems[0]
        raise SawyerError(f"{path} has no usable prompt among {len(rows)} rows; the first is row {number}: {problem}")
    return PromptFile(tuple(prompts), tuple(numbers), tuple(problems))


def _rows(path: Path) -> list[RawRow]:
    if not path.name.endswith(SUFFIXES):
        known = ", ".join((*SUFFIXES, *TEXT_SUFFIXES))
        raise SawyerError(f"{path} has none of the suffixes that prompts are read from: {known}")
    return raw_rows(path)


def text_lines(path: Path) -> list[RawRow]:
    """The lines of a text file that are not empty, those that are no UTF-8 as a problem."""
    rows = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(RawRow(number, line.removesuffix(b"\r").decode("utf-8")))
        except UnicodeDecodeError:
            rows.append(RawRow(number, problem="the line is not UTF-8 text"))
    return rows


def _is_plain(row: Mapping[str, Any]) -> bool:
    return row.get("prompt") is not None or row.get("messages") is not None


def _prompt(row: Mapping[str, Any], format: str, system: str | None) -> Prompt:
    """The prompt of a row. Where it has both `prompt` and `messages`, the former is meant."""
    info = row.get("info") or {}
    info = json.loads(info) if isinstance(info, str) else info
    if row.get("prompt") is not None:
        asked = row["prompt"]
        turns: Sequence[Any] = [user(asked)] if isinstance(asked, str) else turns_of(asked)
    elif row.get("messages") is not None:
        turns = turns_of(row["messages"])
        if turns and turns[-1]["role"] == "assistant":
            turns = CONVERTERS["messages"](row).prompt
    else:
        turns = CONVERTERS[format](row).prompt
    if not turns:
        raise SawyerError("the conversation has no turns")
    if system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    return Prompt(tuple(turns), info)
