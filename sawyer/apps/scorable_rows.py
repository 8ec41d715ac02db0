"""The rows of a file that can be scored, gone through as often as asked, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sawyer.apps.scorer_settings import ScorerSettings
from sawyer.apps.scorers import NO_MODEL, PREFERS, Scorer
from sawyer.data.chat import ChatFormat
from sawyer.data.files import LoadReport, RawRow, iter_rows, record_or_problem
from sawyer.data.formats import SAMPLE, detect
from sawyer.data.records import Message
from sawyer.data.scorable import AUTO, Scorable, converter
from sawyer.errors import SawyerError
from sawyer.pipeline.files import plain

SHOWN = 1000
"""Rows between two signs of life of a survey."""


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file, as JSON, and what of it is scored."""

    number: int
    value: dict[str, Any]
    content: Scorable


@dataclass
class Survey:
    """What the rows of a file are, before any of them is scored."""

    report: LoadReport = field(default_factory=LoadReport)
    completions: int = 0


class Rows:
    """The usable rows of a file, in order.

    Raises:
        SawyerError: the file cannot be read, or its format is not known.
    """

    def __init__(
        self, path: Path, scorer: Scorer, settings: ScorerSettings, format: str, column: str, limit: int | None
    ) -> None:
        self._path, self._column, self._limit = path, column, limit
        self._convert = converter(_format_of(path) if format == AUTO else format)
        form = scorer.protocol.get("judge", {}).get("form")
        by_siblings = form in ("pairwise", "scale", "best_of") or scorer.protocol.get("ensemble") == "majority"
        self._compares = scorer.kind == "pairwise" or by_siblings
        self._templates = _Templates(scorer, settings)

    def usable(self, report: LoadReport | None = None) -> Iterator[Row]:
        """The rows that can be scored, up to the limit; the others are counted in `report`.

        Raises:
            SawyerError: a row has the column of the scores already.
        """
        report = report or LoadReport()

        def found() -> Iterator[Row]:
            for raw in iter_rows(self._path):
                outcome = record_or_problem(raw, self._row(raw))
                if isinstance(outcome, str):
                    report.drop(outcome, f"{self._path.name}:{raw.number}")
                else:
                    yield outcome

        for row in islice(found(), self._limit):
            if self._column in row.value:
                raise SawyerError(
                    f"row {row.number} of {self._path} has a column {self._column!r} already; name another for the "
                    "scores with --column"
                )
            report.kept += 1
            yield row

    def survey(self, max_dropped: float, advance: Callable[[int], None]) -> Survey:
        """Go through all rows once.

        Raises:
            SawyerError: no row can be scored, or more than the share `max_dropped` cannot.
        """
        survey = Survey()
        for row in self.usable(survey.report):
            survey.completions += len(row.content.completions)
            if survey.report.kept % SHOWN == 0:
                advance(SHOWN)
        report = survey.report
        bad = report.rows - report.kept
        first = next((f"{where[0]}: {reason}" for reason, where in report.examples.items()), "the file has no rows")
        if not report.kept:
            raise SawyerError(f"{self._path} has no row to score among {report.rows}; the first: {first}")
        if bad > max_dropped * report.rows:
            raise SawyerError(
                f"{self._path}: {bad} of {report.rows} rows cannot be scored, more than the share of {max_dropped:g} "
                f"allowed; the first: {first}; mend or remove them, or raise --max-dropped"
            )
        return survey

    def _row(self, raw: RawRow) -> Callable[[Mapping[str, Any]], Row]:
        def convert(value: Mapping[str, Any]) -> Row:
            content = self._convert(value)
            if self._compares and len(content.completions) < 2:
                raise SawyerError("the row has one completion, and this scorer compares the completions of a prompt")
            self._templates.check(content.prompt.prompt)
            try:
                return Row(raw.number, plain(value), content)
            except TypeError as error:
                raise SawyerError(str(error).partition(":")[0]) from None

        return convert


class _Templates:
    """Whether the models' chat templates write a prompt, which depends on the roles of its turns."""

    def __init__(self, scorer: Scorer, settings: ScorerSettings) -> None:
        self._chats: list[ChatFormat] = []
        self._known: dict[tuple[str, ...], str | None] = {}
        if scorer.kind not in (*NO_MODEL, *PREFERS):
            from sawyer.feedback.template import check_reading

            template, force = settings.chat_template, settings.force
            formats = [check_reading(name, template, force=force) for name in settings.model]
            self._chats = [chat for chat in formats if chat is not None]

    def check(self, prompt: Sequence[Message]) -> None:
        """Raises SawyerError where one of them does not."""
        roles = tuple(turn["role"] for turn in prompt)
        if roles not in self._known:
            self._known[roles] = self._problem(roles)
        problem = self._known[roles]
        if problem is not None:
            raise SawyerError(problem)

    def _problem(self, roles: Sequence[str]) -> str | None:
        turns: list[Message] = [{"role": role, "content": "a"} for role in roles]
        try:
            for chat in self._chats:
                chat.prompt_ids(turns)
        except SawyerError as error:
            return str(error)
        return None


def _format_of(path: Path) -> str:
    """The one format that fits most of the first rows."""
    readable = [row.value for row in islice(iter_rows(path), SAMPLE) if isinstance(row.value, Mapping)]
    return detect(readable, path) if readable else "trl"
