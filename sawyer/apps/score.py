"""`sawyer score`: the rows of a file of any size with the scores of their completions, in a file.

    OUT                    the rows in their order, each with a list of scores more
    .OUT.work/FINGERPRINT  while it runs: N.jsonl, the rows that model N has scored so far, and N.json, how far it is

Rows are read, scored and written a few at a time, so that memory does not grow with the file. Before any model is
loaded all of them are looked at: how many there are, and which cannot be scored. A killed scoring is continued from
N.json.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sawyer import __version__
from sawyer.apps.measuring import COUNTED, check_finite, counts_of, tell_cost
from sawyer.apps.scorable_rows import Rows
from sawyer.apps.scorer_settings import ScorerSettings
from sawyer.apps.scorers import Member, Scorer, check_pairs, make_scorer, measure
from sawyer.apps.work import check_out, work_folder
from sawyer.data.files import iter_rows, suffix_of, write_rows
from sawyer.data.records import Prompt
from sawyer.data.rewardbench import Trial
from sawyer.data.scorable import AUTO, Scorable, by_prompt, check_format
from sawyer.errors import SawyerError
from sawyer.feedback.ensemble import Scale, combine, scale_of
from sawyer.feedback.protocol import Feedback
from sawyer.numerics import release
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import digest, path_sha256, read_json, write_json
from sawyer.pipeline.metrics import MetricsLog
from sawyer.pipeline.progress import Voice, duration
from sawyer.rollout.api_settings import ApiSettings

ROW_TOKENS = 64
"""Fewer tokens than the completions of most rows have: so many rows fill a packed row."""
CHARACTERS = 3
"""Fewer characters than most tokens have: completions of a prompt that are longer than a packed row are not read as one
tree."""


@dataclass(frozen=True)
class Request:
    """What `sawyer score` was asked for."""

    data: Path
    out: Path
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    api: ApiSettings | None = None
    cache: Path | None = None
    format: str = AUTO
    column: str = "scores"
    """What the scores are called in the output."""
    max_dropped: float = 0.05
    """Share of rows that may be unusable."""
    limit: int | None = None
    overwrite: bool = False


def score(request: Request, voice: Voice | None = None) -> dict[str, Any]:
    """Score the rows of a file, or continue to, and write them with their scores.

    Returns:
        What was done: counts, mean and standard deviation of the scores, rows left out, how the scores came about.

    Raises:
        SawyerError: the request cannot be met; what was scored is kept for the same request.
    """
    voice = voice or Voice()
    check_out(request.out, request.overwrite)
    check_format(request.format)
    if not request.column.strip():
        raise SawyerError("--column is empty; name the column for the scores")
    if request.limit is not None and request.limit < 1:
        raise SawyerError(f"--limit is {request.limit}; at least one row must stay")
    scorer = make_scorer(request.scorer, request.api, request.cache)
    check_pairs(scorer, None)
    rows = Rows(request.data, scorer, request.scorer, request.format, request.column, request.limit)
    with voice.progress(None, f"check {request.data.name}", "row") as bar:
        survey = rows.survey(request.max_dropped, bar.advance)
    if survey.report.dropped:
        voice.say(str(survey.report))
    began = time.monotonic()
    with (
        disk_errors(request.out.parent),
        work_folder(request.out, _fingerprint(request, scorer), "scoring into") as work,
    ):
        counts = dict.fromkeys(COUNTED, 0)
        for number, member in enumerate(scorer.members):
            own = _by_member(member, number, scorer, request, rows, survey.report.kept, work, voice)
            counts = {name: counts[name] + own[name] for name in COUNTED}
        scored = _Scored(work, scorer, request.column)
        write_rows(request.out, scored)
        mean, sd = scale_of(row[request.column] for row in scored)
        shutil.rmtree(work.parent)
    return {
        "out": os.fspath(request.out),
        "data": os.fspath(request.data),
        "model": scorer.name,
        "scorer": scorer.kind,
        "rows": survey.report.kept,
        "completions": survey.completions,
        "column": request.column,
        "mean": mean,
        "sd": sd,
        "report": survey.report.as_dict(),
        **counts,
        "protocol": scorer.protocol,
        "seconds": round(time.monotonic() - began, 3),
        "sawyer": __version__,
    }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """`1,000 rows with 2,000 completions scored by reward in 12 s, mean 0.31, sd 1.2: a.jsonl`, and what was cut."""
    lines = [
        f"{summary['rows']:,} rows with {summary['completions']:,} completions scored by {summary['model']} in "
        f"{duration(summary['seconds'])}, mean {summary['mean']:.4g}, sd {summary['sd']:.4g}: {summary['out']}"
    ]
    if summary["truncated"]:
        lines.append(
            f"{summary['truncated']:,} texts were longer than --max-tokens, or than the model reads, and were cut"
        )
    if summary["unread"]:
        lines.append(f"{summary['unread']:,} questions to the judge got no rating")
    return lines


def _fingerprint(request: Request, scorer: Scorer) -> str:
    """A hash of all that the scores, and the rows that they stand in, depend on."""
    read = [path_sha256(request.data), suffix_of(request.data), request.format, request.limit, request.column]
    return digest([__version__, read, scorer.protocol, [member.depends_on for member in scorer.members]])


def _by_member(
    member: Member, number: int, scorer: Scorer, request: Request, rows: Rows, total: int, work: Path, voice: Voice
) -> dict[str, int]:
    """Let one model score all rows, from where it was stopped; returns what it counted.

    The first model's journal has the whole rows, the others' have the scores alone.
    """
    journal, file = MetricsLog(work / f"{number}.jsonl"), work / f"{number}.json"
    state = read_json(file)
    if state is None or state["position"] > journal.position():
        state = {"rows": 0, "position": 0, **dict.fromkeys(COUNTED, 0)}
    journal.rewind(state["position"])
    if state["rows"] < total:
        feedback = member.load(work / str(number))
        budget = request.scorer.token_budget
        chunk = max(scorer.chunk, budget // ROW_TOKENS) if request.api is None else scorer.chunk
        rest = islice(rows.usable(), state["rows"], None)
        with voice.progress(total, f"score with {member.name}", "row", start=state["rows"]) as bar:
            while part := list(islice(rest, chunk)):
                before = counts_of(feedback)
                scores = _scores(feedback, scorer, [row.content for row in part], CHARACTERS * budget)
                for row, own in zip(part, scores, strict=True):
                    check_finite(own, member.name, f"row {row.number} of {request.data}")
                lines = zip(part, scores, strict=True)
                journal.append(*[{**(row.value if number == 0 else {}), request.column: own} for row, own in lines])
                counted = {name: state[name] + n - before[name] for name, n in counts_of(feedback).items()}
                state = {"rows": state["rows"] + len(part), "position": journal.position(), **counted}
                write_json(file, state)
                bar.advance(len(part))
        tell_cost(feedback, voice)
        del feedback
        release()
    return {name: state[name] for name in COUNTED}


def _scores(feedback: Feedback, scorer: Scorer, rows: Sequence[Scorable], characters: int) -> list[list[float]]:
    """The scores of the rows' completions. Where they do not depend on siblings, rows of one prompt share its tree."""
    if scorer.prefers:
        measured = measure(feedback, [_trial(row.prompt, row.completions) for row in rows], 2)
        return [row["scores"] for row in measured]
    groups, places = by_prompt(rows, characters)
    measured = measure(feedback, [_trial(prompt, texts) for prompt, texts in groups], 2)
    return [[measured[group]["scores"][place] for group, place in own] for own in places]


def _trial(prompt: Prompt, completions: Sequence[str]) -> Trial:
    return Trial("", "", prompt, tuple(completions), ())


class _Scored:
    """The rows with their scores, from the journals of all models, as often as they are gone through."""

    def __init__(self, work: Path, scorer: Scorer, column: str) -> None:
        self._journals = [work / f"{number}.jsonl" for number in range(len(scorer.members))]
        self._rule, self._k = scorer.protocol.get("ensemble"), scorer.protocol.get("k", 1.0)
        self._column = column
        self._scales: list[Scale] = []
        if self._rule is not None:
            self._scales = [scale_of(row[column] for row in _lines(journal)) for journal in self._journals]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._rule is None:
            yield from _lines(self._journals[0])
            return
        for row, *others in zip(*(_lines(journal) for journal in self._journals), strict=True):
            members = [row[self._column], *(other[self._column] for other in others)]
            (own,) = combine([[scores] for scores in members], self._rule, k=self._k, scales=self._scales)
            yield {**row, self._column: own, f"{self._column}_of_members": members}


def _lines(journal: Path) -> Iterator[dict[str, Any]]:
    return (row.value for row in iter_rows(journal))
