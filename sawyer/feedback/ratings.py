"""Ratings of answers by a language model and a rubric: several samples each, every question asked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sawyer.data.records import Prompt

if TYPE_CHECKING:
    from sawyer.feedback.asking import Asker
    from sawyer.feedback.rubrics import Rubric


@dataclass(frozen=True)
class Rated:
    """What a judge said of one answer.

    Attributes:
        values: one a sample; None where the reply could not be read or did not come.
        replies: the judge's words, empty where none came.
    """

    values: tuple[float | None, ...]
    replies: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Of the samples that were read; not a number where none was."""
        read = [value for value in self.values if value is not None]
        return sum(read) / len(read) if read else math.nan

    @property
    def unread(self) -> int:
        """How many samples were not read."""
        return sum(value is None for value in self.values)


def rate(
    asker: Asker, rubric: Rubric, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], explain: bool = True
) -> list[list[Rated]]:
    """A rating of each completion of each prompt. Equal completions of equal prompts are one question.

    Args:
        explain: see `Rubric.ask`.

    Raises:
        SawyerError: as `Asker.ask` raises it: too few replies can be read, or an endpoint is down.
    """
    questions = [
        [rubric.ask(prompt.prompt, text, explain) for text in own]
        for prompt, own in zip(prompts, completions, strict=True)
    ]
    once = {question.text: question for own in questions for question in own}
    answers = asker.ask(list(once.values()), rubric.read) if once else []
    rated = {
        text: Rated(tuple(answer.value for answer in own), tuple(answer.text for answer in own))
        for text, own in zip(once, answers, strict=True)
    }
    return [[rated[question.text] for question in own] for own in questions]


def overall(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted mean of an answer's aspects; not a number where one lacks, as a mean of fewer is another scale."""
    return sum(weights[name] * scores[name] for name in weights) / sum(weights.values())
