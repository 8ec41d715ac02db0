"""Training prompts that evaluation sets have too: overlap in runs of words, as decontamination is usually done.

A prompt overlaps with an evaluation prompt that shares a run of n words with it: 13 (GPT-3, Brown et al. 2020, appendix
C) or 8 (Tülu 3, Lambert et al. 2024). A shorter evaluation prompt overlaps with a prompt that is the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.data.csv_rows import csv_rows
from sawyer.data.files import SUFFIXES, WRONG_TYPE, data_files, raw_rows, read_bytes
from sawyer.data.hh import hh_comparison, is_hh
from sawyer.data.ngrams import ngrams, words
from sawyer.data.records import Conversation, Record
from sawyer.errors import SawyerError

FIELDS = (
    "prompt",
    "question",
    "instruction",
    "turns",
    "messages",
    "conversations",
    "input",
    "text",
    "problem",
    "query",
    "behavior",
    "forbidden_prompt",
)
"""Where the prompt of an evaluation row is looked for, in this order, whatever the case."""
TEXT_SUFFIXES = (".txt", ".txt.gz")


@dataclass(frozen=True)
class EvaluationPrompt:
    """A prompt of an evaluation set."""

    where: str
    """`file:row`."""
    text: str


@dataclass(frozen=True)
class Overlap:
    """A record that shares a run of words with an evaluation prompt."""

    record: int
    """Place among the records, from 0."""
    evaluation: EvaluationPrompt
    """The first that it overlaps with."""
    shared: str
    """The run of words."""


class Index:
    """The runs of `n` words of evaluation prompts."""

    def __init__(self, prompts: Iterable[EvaluationPrompt], n: int = 13) -> None:
        if n < 1:
            raise SawyerError(f"a run of words must have at least one word, not {n}")
        self.n = n
        self._owners: dict[str, EvaluationPrompt] = {}
        for prompt in prompts:
            for run in ngrams(words(prompt.text), n):
                self._owners.setdefault(run, prompt)

    def overlap(self, text: str) -> tuple[EvaluationPrompt, str] | None:
        """The first run of the text that an evaluation prompt has too, and whose it is."""
        for run in ngrams(words(text), self.n):
            if run in self._owners:
                return self._owners[run], run
        return None


def overlaps(
    records: Sequence[Record], index: Index, advance: Callable[[], object] = lambda: None
) -> Iterator[Overlap]:
    """The records with a turn of the user that overlaps. `advance` is called after each record."""
    for number, record in enumerate(records):
        found = next(filter(None, map(index.overlap, _asked(record))), None)
        if found is not None:
            yield Overlap(number, *found)
        advance()


def shared_prompts(
    prompts: Sequence[str], trained: Iterable[EvaluationPrompt], n: int = 13
) -> dict[int, EvaluationPrompt]:
    """The other way round: the places of the prompts that share a run of words with one that was trained on, each with
    the first such. A shorter prompt has to be the same words.

    What was trained on is read once and not kept, however much it is.
    """
    owners: dict[str, list[int]] = {}
    for place, text in enumerate(prompts):
        for run in ngrams(words(text), n):
            owners.setdefault(run, []).append(place)
    found: dict[int, EvaluationPrompt] = {}
    for prompt in trained:
        for run in ngrams(words(prompt.text), n):
            for place in owners.get(run, ()):
                found.setdefault(place, prompt)
    return dict(sorted(found.items()))


def without_overlaps(records: Sequence[Record], index: Index) -> tuple[list[Record], int]:
    """The records that overlap with no evaluation prompt, and how many there were that do.

    Raises:
        SawyerError: every record overlaps.
    """
    dropped = {overlap.record for overlap in overlaps(records, index)}
    kept = [record for number, record in enumerate(records) if number not in dropped]
    if records and not kept:
        raise SawyerError(f"all {len(records)} records overlap with the evaluation prompts; these are the same data")
    return kept, len(dropped)


def evaluation_prompts(path: str | Path, field: str | None = None) -> list[EvaluationPrompt]:
    """The prompts of an evaluation file, or of all files below a folder.

    Args:
        path: .txt (one a line), .csv, .jsonl, .json or .parquet.
        field: the field that holds the prompt, as text, texts or turns; without it, the first of `FIELDS` there is.

    Raises:
        SawyerError: a file is missing, broken or of another kind, or no row of it has a prompt.
    """
    path = Path(path).expanduser()
    readable = (*SUFFIXES, *TEXT_SUFFIXES, ".csv")
    if path.is_dir():
        files = data_files(path, readable, "evaluation prompts")
        return [prompt for file in files for prompt in evaluation_prompts(file, field)]
    if not path.name.endswith(readable):
        raise SawyerError(f"{path} is not a file of evaluation prompts; known kinds are {', '.join(readable)}")
    rows = list(_rows(path))
    prompts = [
        EvaluationPrompt(f"{path.name}:{number}", text) for number, row in rows if (text := _prompt_of(row, field))
    ]
    if not prompts:
        keys = next((", ".join(map(str, row))[:200] for _, row in rows if isinstance(row, Mapping)), "none")
        wanted = f"the field {field!r}" if field else f"any of the fields {', '.join(FIELDS)}"
        raise SawyerError(f"no row of {path} has a prompt in {wanted} (fields of its first row: {keys})")
    return prompts


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.name.endswith(TEXT_SUFFIXES):
        rows = csv_rows(path) if path.name.endswith(".csv") else raw_rows(path)
        yield from ((row.number, row.value) for row in rows)
        return
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise SawyerError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    yield from ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _prompt_of(row: Any, field: str | None) -> str:
    """The prompt of a row as text; empty where it has none."""
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping):
        return ""
    if field is not None:
        return _text(row.get(field))
    by_name = {str(name).casefold(): value for name, value in row.items()}
    return _of_dialogues(row) or next((text for name in FIELDS if (text := _text(by_name.get(name)))), "")


def _of_dialogues(row: Mapping[str, Any]) -> str:
    """What people say before the two answers in a row of HH-RLHF, which has no field for it."""
    try:
        return _text(hh_comparison(row).prompt) if is_hh(row) else ""
    except (SawyerError, *WRONG_TYPE):
        return ""


def _text(value: Any) -> str:
    """Text, a list of texts, or the user's turns of a dialogue."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        role = value.get("role") or value.get("from")
        return _text(value.get("content") or value.get("value")) if role in (None, "user", "human") else ""
    if isinstance(value, Sequence):
        return "\n".join(filter(None, map(_text, value)))
    return ""


def _asked(record: Record) -> Iterator[str]:
    messages = record.messages if isinstance(record, Conversation) else record.prompt
    return (message["content"] for message in messages if message["role"] == "user")
