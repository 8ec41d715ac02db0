"""Completions of one prompt as players of a game: how often each beats the others. SPPO (Wu et al. 2024, arXiv
2405.00675) and DNO (Rosset et al. 2024, arXiv 2404.03715) learn from these win rates, not from rewards.

    P(y_i) = 1/n sum_j P(y_i beats y_j),  y_i itself among them with 1/2

is the estimate of P(y_i beats pi) where the n completions are drawn from pi (SPPO's algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sawyer.feedback.protocol import sigmoid

Scores = Literal["rewards", "win_rates"]
"""What losses with scores see of a completion."""


def from_rewards(rewards: Sequence[float]) -> list[float]:
    """The win rates of one prompt's completions where a reward is a logit: P(i beats j) = sigmoid(r_i - r_j), Bradley
    & Terry (1952). Between 0 and 1, in the order of the rewards, 1/2 on average."""
    return [sum(sigmoid(own - other) for other in rewards) / len(rewards) for own in rewards]


def with_itself(rates: Sequence[float]) -> list[float]:
    """Win rates over all n completions, from those over the n - 1 others that a pairwise model's `score` gives."""
    n = len(rates)
    return [((n - 1) * rate + 0.5) / n for rate in rates]
