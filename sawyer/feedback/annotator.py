"""A simulated annotator: labels pairs by a known reward, with known noise (Bradley & Terry 1952).

    P(a beats b) = sigmoid((r_a - r_b) / temperature), then flipped with probability `error_rate`

The temperature is in units of the reward: two answers whose gold rewards differ by one temperature are labelled
right 73 times in 100. Labels do not depend on the order of a batch, nor on which of the two comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import Feedback, sigmoid, uniform


class SimulatedAnnotator:
    """Prefers what `gold` scores higher, more surely the larger the difference."""

    def __init__(self, gold: Feedback, temperature: float = 0.1, error_rate: float = 0.0) -> None:
        if not temperature > 0:
            raise SawyerError(
                f"the annotator's `temperature` must be above 0, it is {temperature}; use a small one for no noise"
            )
        if not 0 <= error_rate <= 0.5:
            raise SawyerError(f"the annotator's `error_rate` must be from 0 to 0.5, it is {error_rate}")
        self.name = f"annotator({gold.name})"
        self.gold = gold
        self.temperature = temperature
        self.error_rate = error_rate

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The gold reward in units of the temperature: Bradley-Terry of two scores is `prefer` without errors."""
        return [[r / self.temperature for r in rewards] for rewards in self.gold.score(prompts, completions)]

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(the label says that the first of a pair is better); swapping a pair gives 1 - P."""
        likely = [sigmoid(a - b) for a, b in self.score(prompts, pairs)]
        return [p + self.error_rate * (1 - 2 * p) for p in likely]

    def label(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]], seed: int = 0) -> list[bool]:
        """One draw a pair from `prefer`: whether the first is labelled as the better one."""
        return [
            # The draw belongs to the pair in sorted order, so a swapped pair gets the opposite label.
            draw < p if a <= b else draw >= 1 - p
            for p, (a, b), draw in zip(
                self.prefer(prompts, pairs),
                pairs,
                (_uniform(seed, prompt, pair) for prompt, pair in zip(prompts, pairs, strict=True)),
                strict=True,
            )
        ]

    def rank(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], seed: int = 0) -> list[list[int]]:
        """Whole rankings, best first, as indices: one draw a prompt from the Plackett-Luce model of the scores.

        Every completion's score gets Gumbel noise and the sums are sorted (Yellott 1977), so any two completions are
        ordered as `label` would order them, with the same probability. `error_rate` has no meaning here.
        """
        ranked = []
        for prompt, own, scores in zip(prompts, completions, self.score(prompts, completions), strict=True):
            noisy = [
                score - math.log(-math.log(max(_uniform(seed, prompt, (text,)), 1e-300)))
                for text, score in zip(own, scores, strict=True)
            ]
            ranked.append(sorted(range(len(own)), key=lambda i: -noisy[i]))
        return ranked


def _uniform(seed: int, prompt: Prompt, texts: tuple[str, ...]) -> float:
    """A number in [0, 1) that depends on nothing but its arguments, and not on the order of the texts."""
    return uniform(seed, list(prompt.prompt), sorted(texts))
