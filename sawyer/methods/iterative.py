"""Online iterative preference optimisation: Algorithm 2 of the RLHF Workflow (Dong et al. 2024, arXiv 2405.07863).

    for t = 1 .. T:
        answer a batch of prompts with the current policy, n times each, half warm and half cool
        score the answers; take the best and the worst of each prompt as a pair
        DPO on the pairs, from the current policy, against pi_0

Options are all that the paper and the scripts leave open: another rule for pairs, another loss, the last iterate as
reference, every training from pi_0, offline pairs and pairs of earlier iterations beside the new ones, answers of
earlier policies or of someone else among the candidates, win rates in place of rewards (SPPO, DNO), or, in place of
preference optimisation, fine-tuning on the best answer alone (RAFT, Dong et al. 2023, arXiv 2304.06767).

Differences from the authors' released scripts, on purpose: the reference is pi_0 in every iteration, as the paper has
it; half of the answers are drawn at temperature 1.0 and half at 0.7; a length penalty decides the order of a pair, and
the order it decides stands; pairs of equal texts or equal scores are dropped; the best iterate is chosen on prompts
held out from training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field

from sawyer.data.records import Comparison, Prompt
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.rollout.protocol import Completion


Rule = Literal["max_min", "max_max", "max_random", "all"]


class PairSettings(Settings):
    """How a pair is made of a prompt's scored completions."""

    rule: Rule = "max_min"
    """What the best is paired with: the worst, the second best, or any other at random; or every pair of a prompt's
    completions (with `min_margin`, DNO's choice)."""
    length_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the reward for each character of the completion (the RLHF Workflow's lambda; theirs is 0.001)."""
    min_margin: float = Field(default=0.0, ge=0)
    """Pairs whose penalised rewards differ by no more than this are dropped; 0 drops ties alone."""


@dataclass(frozen=True)
class Pair:
    """Two of one prompt's completions, the better one first, as indices into them."""

    prompt: int
    chosen: int
    rejected: int


def penalised(rewards: Sequence[float], texts: Sequence[str], length_penalty: float) -> list[float]:
    """r - lambda * characters, for each completion."""
    return [reward - length_penalty * len(text) for reward, text in zip(rewards, texts, strict=True)]


def choose_pairs(
    rewards: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], settings: PairSettings, seed: int = 0
) -> list[Pair]:
    """The pair of each prompt (of the rule `all`, its pairs) by penalised reward; none where its texts are equal or
    its rewards too close. A completion whose reward is not a number is in no pair.

    Args:
        seed: of `max_random`, where what is drawn for a prompt depends on its place alone.

    Raises:
        ValueError: there is no such rule.
    """
    if settings.rule not in get_args(Rule):
        raise ValueError(f"there is no rule {settings.rule!r}")
    pairs = []
    for i, (own_rewards, own_texts) in enumerate(zip(rewards, texts, strict=True)):
        scores = penalised(own_rewards, own_texts, settings.length_penalty)
        for one, other in _candidates(scores, settings.rule, f"{seed} {i}"):
            apart = scores[one] - scores[other] > settings.min_margin
            if apart and own_texts[one].strip() != own_texts[other].strip():
                pairs.append(Pair(i, one, other))
    return pairs


def _candidates(scores: Sequence[float], rule: Rule, seed: str) -> list[tuple[int, int]]:
    """What a rule would pair of one prompt's completions, the better one first."""
    known = [k for k in range(len(scores)) if not math.isnan(scores[k])]
    ranked = sorted(known, key=lambda k: -scores[k])
    if rule == "all" or len(ranked) < 2:
        return list(combinations(ranked, 2))
    best, others = ranked[0], [k for k in known if k != ranked[0]]
    if rule == "max_min":
        return [(best, min(others, key=scores.__getitem__))]
    if rule == "max_max":
        return [(best, max(others, key=scores.__getitem__))]
    return [(best, random.Random(seed).choice(others))]


def reward_figures(rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    """The mean reward of the prompts' completions and of the best of each; what is not a number does not count."""
    known = [[reward for reward in own if not math.isnan(reward)] for own in rewards]
    known = [own for own in known if own]
    count = max(1, len(known))
    return {
        "reward": sum(sum(own) / len(own) for own in known) / count,
        "reward_best_of_n": sum(max(own) for own in known) / count,
    }


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
