"""WebGPT comparisons (Nakano et al. 2021): two answers to a question, written with quotes from the web."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison
from sawyer.data.public.base import PARQUET_EXPORT, PublicSettings
from sawyer.data.public.fields import name, number, part, question, text
from sawyer.data.records import Comparison, Message
from sawyer.errors import SawyerError


class WebGptSettings(PublicSettings):
    """WebGPT comparisons. Columns: `question` (`full_text`, `dataset`), `answer_0`, `answer_1`, and `score_0`,
    `score_1` from -1 to 1, in sum 0: how strongly an answer was preferred."""

    source: Literal["webgpt"] = "webgpt"
    hub: str = "openai/webgpt_comparisons"
    """Hub data set, when there is no path."""
    revision: str | None = PARQUET_EXPORT
    """Commit, tag or branch of the hub data set: the hub's own copy in parquet, as the set is published as a script."""
    min_score: float = Field(default=0.0, ge=0, lt=1)
    """Keep comparisons in which the preferred answer's score is above this; 0 leaves out those without a preference."""

    def place(self) -> dict[str, str | None]:
        return {"data_dir": "default"}


def read(settings: WebGptSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (prompt, answers, origin) in sieve.usable(_pair):
        better, worse = sorted(answers, key=lambda answer: -(answer.score or 0.0))
        if (better.score or 0.0) <= settings.min_score:
            sieve.leave_out(f"the preference is not above {settings.min_score:g}", where)
        else:
            yield comparison(prompt, (better, worse), settings.source, "people", prompt_source=origin)


def _pair(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], list[Answer], str | None]:
    asked = part(row, "question")
    answers = [Answer(text(row, f"answer_{i}"), number(row, f"score_{i}"), "webgpt") for i in (0, 1)]
    if answers[0].text == answers[1].text:
        raise SawyerError(SAME_TEXT)
    if abs((answers[0].score or 0.0) + (answers[1].score or 0.0)) > 1e-6:
        raise SawyerError("the two scores do not add up to 0")
    return question(text(asked, "full_text")), answers, name(asked, "dataset")
