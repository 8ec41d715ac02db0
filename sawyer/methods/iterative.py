"""Online iterative preference optimisation: Algorithm 2 of the RLHF Workflow (Dong et al. 2024, arXiv 2405.07863).

    for t = 1 .. T:
        answer a batch of prompts with the current policy, n times each, half warm and half cool
        score the answers; take the best and the worst of each prompt as a pair
        DPO on the pairs, from the current policy, against pi_0

Differences from the authors' released scripts, on purpose: the reference is pi_0 in every iteration, as the paper has
it; half of the answers are drawn at temperature 1.0 and half at 0.7; a length penalty decides the order of a pair, and
the order it decides stands; pairs of equal texts or equal scores are dropped; the best iterate is chosen on prompts
held out from training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from sawyer.data.records import Comparison, Prompt
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.rollout.protocol import Completion


class PairSettings(Settings):
    """How a pair is made of a prompt's scored completions."""

    length_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the reward for each character of the completion (the RLHF Workflow's lambda; theirs is 0.001)."""
    min_margin: float = Field(default=0.0, ge=0)
    """Pairs whose penalised rewards differ by no more than this are dropped; 0 drops ties alone."""


@dataclass(frozen=True)
class Pair:
    """The best and the worst of one prompt's completions, as indices into them."""

    prompt: int
    chosen: int
    rejected: int


def penalised(rewards: Sequence[float], texts: Sequence[str], length_penalty: float) -> list[float]:
    """r - lambda * characters, for each completion."""
    return [reward - length_penalty * len(text) for reward, text in zip(rewards, texts, strict=True)]


def best_and_worst(
    rewards: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], settings: PairSettings
) -> list[Pair]:
    """The pair of each prompt by penalised reward; none where its texts are equal or its rewards too close."""
    pairs = []
    for i, (own_rewards, own_texts) in enumerate(zip(rewards, texts, strict=True)):
        scores = penalised(own_rewards, own_texts, settings.length_penalty)
        best = max(range(len(scores)), key=scores.__getitem__)
        worst = min(range(len(scores)), key=scores.__getitem__)
        if own_texts[best].strip() != own_texts[worst].strip() and scores[best] - scores[worst] > settings.min_margin:
            pairs.append(Pair(i, best, worst))
    return pairs


def prompts_of_iteration(prompts: Sequence[Prompt], per_iteration: int, iteration: int) -> list[Prompt]:
    """The next `per_iteration` prompts, going round when they run out; iterations count from 0."""
    start = iteration * per_iteration
    return [prompts[(start + k) % len(prompts)] for k in range(min(per_iteration, len(prompts)))]


def comparisons(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]], pairs: Sequence[Pair]
) -> list[Comparison]:
    """The pairs as records, to be kept."""
    return [
        Comparison(
            prompts[pair.prompt].prompt,
            (completions[pair.prompt][pair.chosen].text, completions[pair.prompt][pair.rejected].text),
            None,
            prompts[pair.prompt].info,
        )
        for pair in pairs
    ]
