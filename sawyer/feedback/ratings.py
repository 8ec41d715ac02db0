"""Ratings of answers by a language model and a scale: several samples each, every question asked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sawyer.data.records import Prompt
from sawyer.feedback.scales import VERDICT, Scale

if TYPE_CHECKING:
    from sawyer.feedback.asking import Asker
    from sawyer.rollout.torch_engine import TorchEngine


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
    asker: Asker, scale: Scale, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], explain: bool = True
) -> list[list[Rated]]:
    """A rating of each completion of each prompt. Equal completions of equal prompts are one question.

    Args:
        explain: see `Scale.ask`.

    Raises:
        SawyerError: as `Asker.ask` raises it: too few replies can be read, or an endpoint is down.
    """
    questions = [
        [scale.ask(prompt.prompt, text, explain) for text in own]
        for prompt, own in zip(prompts, completions, strict=True)
    ]
    once = {question.text: question for own in questions for question in own}
    answers = asker.ask(list(once.values()), scale.read) if once else []
    rated = {
        text: Rated(tuple(answer.value for answer in own), tuple(answer.text for answer in own))
        for text, own in zip(once, answers, strict=True)
    }
    return [[rated[question.text] for question in own] for own in questions]


def rate_by_tokens(
    engine: TorchEngine, scale: Scale, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]
) -> list[list[Rated]]:
    """The same, read off the model: the mean of the scale's numbers, each as probable as the model is to write it after
    `Score: `, and not something else (G-Eval, Liu et al. 2023, arXiv 2303.16634). Nothing is generated, and no reply
    can be unreadable; only a question that exceeds the context has no rating."""
    from sawyer.rollout.choices import choice_probabilities

    questions = [
        [scale.ask(prompt.prompt, text, explain=False) for text in own]
        for prompt, own in zip(prompts, completions, strict=True)
    ]
    once = list({question.text: question for own in questions for question in own}.values())
    found = choice_probabilities(engine, once, [VERDICT] * len(once), scale.numbers)
    rated = {
        question.text: Rated((None if own is None else _mean(scale, own),), ("",))
        for question, own in zip(once, found, strict=True)
    }
    return [[rated[question.text] for question in own] for own in questions]


def _mean(scale: Scale, chances: Sequence[float]) -> float:
    return math.fsum(p * number for p, number in zip(chances, range(scale.low, scale.high + 1), strict=True))


def overall(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted mean of an answer's aspects; not a number where one lacks, as a mean of fewer is another scale."""
    return sum(weights[name] * scores[name] for name in weights) / sum(weights.values())
