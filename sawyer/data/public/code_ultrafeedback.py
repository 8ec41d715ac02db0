"""CodeUltraFeedback (Weyssow et al. 2024): four models' answers to a coding request, rated for one preference each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import rated_answers, scored_comparisons
from sawyer.data.public.base import ScoredSettings
from sawyer.data.public.fields import items, name, number, question, text
from sawyer.data.records import Comparison


class CodeUltraFeedbackSettings(ScoredSettings):
    """CodeUltraFeedback. Columns: `instruction`, `preference`, `responses` of `model` and `response`, `annotations` of
    `model`, `rating` and `rationale`."""

    source: Literal["code-ultrafeedback"] = "code-ultrafeedback"
    hub: str = "coseal/CodeUltraFeedback"
    """Hub data set, when there is no path."""


def read(settings: CodeUltraFeedbackSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (prompt, preference, responses) in sieve.usable(_row):
        answers = rated_answers(responses, lambda response: (number(response, "rating"), {}), "model", sieve, where)
        yield from scored_comparisons(
            question(prompt), answers, settings, sieve, where, "gpt-3.5-turbo", preference=preference
        )


def _row(row: Mapping[str, Any]) -> tuple[str, str | None, list[Mapping[str, Any]]]:
    """The request, what it is judged for, and each response with the rating that its model got."""
    ratings = {item.get("model"): item.get("rating") for item in items(row, "annotations")}
    responses: list[Mapping[str, Any]] = [
        {**item, "rating": ratings.get(item.get("model"))} for item in items(row, "responses")
    ]
    return text(row, "instruction"), name(row, "preference"), responses
