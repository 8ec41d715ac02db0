"""RewardBench's questions, from its published files, from the hub, or of one's own in the same columns.

Version 1 (Lambert et al. 2024) asks for the better of two completions:

    prompt, chosen, rejected: text (or turns); subset; id, chosen_model, rejected_model where they are known

Version 2 (Malik et al. 2025) asks for the right one of four; in the subset Ties, for all right ones before the others:

    prompt: text; chosen, rejected: lists of text; subset; id (`ref:N` and `tied:N` in Ties); num_correct

Pairs may also come in any other format that `data.formats` knows. A row without a subset belongs to the subset that its
file is named after; the four prior sets have a file each and other things in their column `subset`, so there the file's
name always counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sawyer.data.files import SUFFIXES, LoadReport, RawRow, data_files, raw_rows, record_or_problem, suffix_of
from sawyer.data.formats import CONVERTERS, SAMPLE, detect, turns_of
from sawyer.data.hh import check_alternation
from sawyer.data.hub import hub_rows
from sawyer.data.records import Comparison, Message, Prompt, user
from sawyer.errors import SawyerError

HUB = {1: ("allenai/reward-bench", "filtered"), 2: ("allenai/reward-bench-2", "test")}
"""Data set and split of each version."""
HUB_PRIOR = "allenai/preference-test-sets"
PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
"""The older test sets that version 1 counts, half as much as one of its own sections."""
VERSION_2_SUBSETS = ("Factuality", "Focus", "Math", "Precise IF", "Safety", "Ties")
TIES = "Ties"
TIES_ID = re.compile(r"(ref|tied):\d+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")


@dataclass(frozen=True)
class Trial:
    """One question: completions that should win, and completions that should lose."""

    id: str
    subset: str
    prompt: Prompt
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    chosen_source: str | None = None
    """Who wrote it, where that is known."""
    rejected_source: str | None = None

    @property
    def completions(self) -> tuple[str, ...]:
        """The chosen ones, then the rejected ones."""
        return self.chosen + self.rejected

    @cached_property
    def prompt_id(self) -> str:
        """The same for equal prompts: what resampling keeps together."""
        return hashlib.blake2b(json.dumps(list(self.prompt.prompt)).encode(), digest_size=8).hexdigest()


@dataclass
class Bench:
    """What was read, and what was not."""

    trials: list[Trial]
    version: int
    report: LoadReport
    left_out: list[str] = field(default_factory=list)
    """Files of the folder that were not read, and why."""


def load_bench(
    data: str | Path,
    version: int | None = None,
    *,
    prior: bool = False,
    max_bad: float = 0.05,
    limit: int | None = None,
) -> Bench:
    """The questions in a file, a folder of files, or on the hub.

    Args:
        data: a file, a folder, or `hub`.
        version: 1 or 2; what the rows look like when left out (with the hub: 1).
        prior: with the hub, version 1: the prior sets too. In a folder they are read where they are.
        max_bad: share of rows that may be unusable.
        limit: keep the first so many of each subset.

    Raises:
        SawyerError: nothing can be read, rows of both versions are mixed, or too many rows are unusable.
    """
    if version not in (None, 1, 2):
        raise SawyerError(f"--version is {version}; RewardBench has the versions 1 and 2")
    report = LoadReport()
    left_out: list[str] = []
    if str(data) == "hub":
        tables, report.revisions = _hub_tables(version or 1, prior)
    else:
        tables, left_out = _local_tables(Path(data))
    version = _version(tables, version, str(data))
    trials: list[Trial] = []
    first_bad = ""
    for name, rows in tables:
        convert = _converter(name, rows, version)
        for row in rows:
            outcome = record_or_problem(row, convert)
            if isinstance(outcome, str):
                report.drop(outcome, f"{name}:{row.number}")
                first_bad = first_bad or f"the first is {name}:{row.number}: {outcome}"
            else:
                trials.append(outcome if outcome.id else replace(outcome, id=f"{_stem(name)}:{row.number}"))
    report.kept = len(trials)
    if not trials:
        raise SawyerError(f"{data} has no usable row among {report.rows}; {first_bad or 'the files are empty'}")
    if report.rows - report.kept > max_bad * report.rows:
        raise SawyerError(
            f"{data}: {report.rows - report.kept} of {report.rows} rows cannot be used, more than the share of "
            f"{max_bad:g} allowed; {first_bad}; mend or remove them, or raise --max-bad"
        )
    return Bench(_first(trials, limit), version, report, left_out)


# --- where rows come from ---------------------------------------------------------------------------------------------

Table = tuple[str, Sequence[RawRow]]


def _hub_tables(version: int, prior: bool) -> tuple[list[Table], dict[str, str]]:
    """The rows of the published sets, and the commits that they come from."""
    wanted = [HUB[version]] + ([(HUB_PRIOR, name) for name in PRIOR_SETS] if prior and version == 1 else [])
    tables: list[Table] = []
    revisions: dict[str, str] = {}
    for repo, split in wanted:
        rows, commits = hub_rows(repo, split)
        tables.append((split, rows))
        revisions |= commits
    return tables, revisions


def _local_tables(path: Path) -> tuple[list[Table], list[str]]:
    """The rows of a file, or of every data file below a folder."""
    if not path.is_dir():
        return [(path.name, raw_rows(path))], []
    files = data_files(path)
    left_out = []
    if any(_stem(file.name) == "filtered" for file in files):  # the other split holds the same rows, and bad ones
        left_out = [f"{file.name}: not the split `filtered`" for file in files if _stem(file.name) == "raw"]
        files = [file for file in files if _stem(file.name) != "raw"]
    return [(file.name, raw_rows(file)) for file in files], left_out


def _stem(name: str) -> str:
    """`shp` of `shp-00000-of-00001.parquet`; what has no suffix stays."""
    return _SHARD.sub("", name.removesuffix(suffix_of(Path(name))) if name.endswith(SUFFIXES) else name)


def _version(tables: Sequence[Table], wanted: int | None, data: str) -> int:
    """The version that the rows are of.

    Raises:
        SawyerError: they are of two, or of another than is wanted.
    """
    found = {
        2 if isinstance(row.value["chosen"], list) and all(isinstance(c, str) for c in row.value["chosen"]) else 1
        for _, rows in tables
        for row in rows[:SAMPLE]
        if isinstance(row.value, Mapping) and row.value.get("chosen")
    }
    if len(found) > 1:
        raise SawyerError(f"{data} holds rows of both versions of RewardBench; give one of them at a time")
    version = found.pop() if found else wanted or 1
    if wanted is not None and version != wanted:
        raise SawyerError(f"--version is {wanted}, but the rows of {data} are of version {version}")
    return version


# --- the trial of a row -----------------------------------------------------------------------------------------------


def _converter(name: str, rows: Sequence[RawRow], version: int) -> Callable[[Mapping[str, Any]], Trial]:
    stem = _stem(name)
    if version == 2:
        return lambda row: _best_of(row, stem)
    readable = [row.value for row in rows if isinstance(row.value, Mapping)]
    convert = CONVERTERS[detect(readable, name) if readable else "trl"]

    def pair(row: Mapping[str, Any]) -> Trial:
        record = convert(row)
        if not isinstance(record, Comparison):
            raise SawyerError("the row has no `chosen` and `rejected`")
        if len(record.completions) != 2:
            raise SawyerError(f"the row has {len(record.completions)} completions and not two")
        subset = stem if stem in PRIOR_SETS else _subset(row, stem)
        sources = (_source(row, record.info, side) for side in ("chosen", "rejected"))
        return Trial(
            _id(row), subset, Prompt(record.prompt, record.info), (record.chosen,), (record.rejected,), *sources
        )

    return pair


def _best_of(row: Mapping[str, Any], stem: str) -> Trial:
    """A row of version 2."""
    if not row.get("prompt"):
        raise SawyerError("the row has no `prompt`")
    prompt: list[Message] = [user(row["prompt"])] if isinstance(row["prompt"], str) else turns_of(row["prompt"])
    check_alternation(prompt)
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    if set(chosen) & set(rejected):
        raise SawyerError("the same answer is chosen and rejected")
    if row.get("num_correct") not in (None, len(chosen)):
        raise SawyerError(f"`num_correct` is {row['num_correct']!r:.60}, but {len(chosen)} answers are chosen")
    name = _subset(row, stem)
    subset = next((known for known in VERSION_2_SUBSETS if known.lower() == name.lower()), name)
    if subset == TIES and not TIES_ID.fullmatch(_id(row)):
        raise SawyerError("a row of Ties needs an id such as ref:7 or tied:7, which says what belongs together")
    return Trial(_id(row), subset, Prompt(tuple(prompt)), chosen, rejected)


def _texts(row: Mapping[str, Any], side: str) -> tuple[str, ...]:
    texts = row.get(side)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise SawyerError(f"`{side}` is not a list of texts")
    if not all(text.strip() for text in texts):
        raise SawyerError("an answer is empty")
    return tuple(texts)


def _subset(row: Mapping[str, Any], otherwise: str) -> str:
    subset = row.get("subset")
    if subset is None:
        return otherwise
    if not isinstance(subset, str) or not subset.strip():
        raise SawyerError("`subset` is not a name")
    return subset


def _source(row: Mapping[str, Any], info: Mapping[str, Any], side: str) -> str | None:
    """Who wrote a side: a column of the row, or an entry of its `info`, where `models` are those of all completions."""
    for place in (row, info):
        for name in (f"{side}_model", f"{side}_source"):
            if isinstance(place.get(name), str) and place[name]:
                return place[name]
    models = info.get("models")
    writer = models[0 if side == "chosen" else -1] if isinstance(models, list) and models else None
    return writer if isinstance(writer, str) and writer else None


def _id(row: Mapping[str, Any]) -> str:
    found = row.get("id")
    return "" if found is None else str(found)


def _first(trials: Sequence[Trial], limit: int | None) -> list[Trial]:
    """The first `limit` of each subset; in Ties, of the questions: `ref:7` and `tied:7` are one."""
    if limit is None:
        return list(trials)
    if limit < 1:
        raise SawyerError(f"--limit is {limit}; at least one row of each subset must stay")
    kept: dict[str, dict[str, None]] = {}
    chosen = []
    for number, trial in enumerate(trials):
        unit = trial.id.partition(":")[2] if trial.subset == TIES else str(number)
        units = kept.setdefault(trial.subset, {})
        if unit in units or len(units) < limit:
            units[unit] = None
            chosen.append(trial)
    return chosen
