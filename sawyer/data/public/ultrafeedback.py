"""UltraFeedback (Cui et al. 2023): four models' completions of a prompt, each rated by GPT-4 for four aspects.

The score of a completion is the mean of the aspects' ratings. The `overall_score` that the set also has is known to be
wrong in places (a 1 written as 10), and the RLHF Workflow does not use it either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import rated_answers, scored_comparisons
from sawyer.data.public.base import ScoredSettings
from sawyer.data.public.fields import items, name, number, part, question, text
from sawyer.data.records import Comparison

Aspect = Literal["instruction_following", "honesty", "truthfulness", "helpfulness"]
ASPECTS: tuple[Aspect, ...] = ("instruction_following", "honesty", "truthfulness", "helpfulness")


class UltraFeedbackSettings(ScoredSettings):
    """UltraFeedback. Columns: `source`, `instruction`, `completions` of `model`, `response` and `annotations` (a
    `Rating` of 1 to 5 for each aspect)."""

    source: Literal["ultrafeedback"] = "ultrafeedback"
    hub: str = "openbmb/UltraFeedback"
    """Hub data set, when there is no path."""
    aspects: tuple[Aspect, ...] = Field(default=ASPECTS, min_length=1)
    """A completion's score is the mean of these aspects' ratings. A completion that lacks one of them (`N/A`) is left
    out: a mean of fewer would be on another scale."""
    without: tuple[str, ...] = ()
    """Leave out prompts that come from these data sets (`truthful_qa`, ...)."""


def read(settings: UltraFeedbackSettings, sieve: Sieve) -> Iterator[Comparison]:
    def rate(completion: Mapping[str, Any]) -> tuple[float, Mapping[str, float]]:
        annotations = part(completion, "annotations")
        ratings: dict[str, float] = {aspect: number(part(annotations, aspect), "Rating") for aspect in settings.aspects}
        return sum(ratings.values()) / len(ratings), ratings

    for where, (prompt, origin, completions) in sieve.usable(_row):
        if origin in settings.without:
            sieve.leave_out(f"the prompt is from {origin}", where)
            continue
        answers = rated_answers(completions, rate, "model", sieve, where)
        yield from scored_comparisons(question(prompt), answers, settings, sieve, where, "gpt-4", prompt_source=origin)


def _row(row: Mapping[str, Any]) -> tuple[str, str | None, list[Mapping[str, Any]]]:
    return text(row, "instruction"), name(row, "source"), items(row, "completions")
