"""Whatever scores or prefers completions: rules, reward models, policies, judges, people."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from itertools import combinations
from typing import Protocol, runtime_checkable

from sawyer.data.records import Prompt

SURE = 30.0
"""The largest difference in score that is read off a probability: sigmoid(30) is 1 to 13 digits."""


@runtime_checkable
class Feedback(Protocol):
    """A source of scores. Takes batches and keeps their order; knows nothing of threads or processes."""

    name: str

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One number for each completion of each prompt, higher is better."""
        ...


def prefer(feedback: Feedback, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
    """P(first beats second) for one pair a prompt: the source's own `prefer` where it has one, else Bradley-Terry.

    A score r is read as a logit: P(a beats b) = sigmoid(r_a - r_b) (Bradley & Terry 1952), so swapping a pair gives
    exactly 1 - P.
    """
    own = getattr(feedback, "prefer", None)
    if own is not None:
        return own(prompts, pairs)
    return [sigmoid(a - b) for a, b in feedback.score(prompts, pairs)]


def win_rates(feedback: Feedback, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """The mean probability that a completion beats each of its siblings; 0.5 for one without siblings.

    Every two are compared once by the source's own `prefer`; where it has none, every one is scored once, and two
    scores are compared as in `prefer`.
    """
    games = [(i, j, k) for i, own in enumerate(completions) for j, k in combinations(range(len(own)), 2)]
    if hasattr(feedback, "prefer"):
        asked = [(completions[i][j], completions[i][k]) for i, j, k in games]
        won = prefer(feedback, [prompts[i] for i, _, _ in games], asked)
    else:
        scores = feedback.score(prompts, completions)
        won = [sigmoid(scores[i][j] - scores[i][k]) for i, j, k in games]
    sums = [[0.0] * len(own) for own in completions]
    for (i, j, k), p in zip(games, won, strict=True):
        sums[i][j] += p
        sums[i][k] += 1 - p
    return [[total / (len(own) - 1) for total in own] if len(own) > 1 else [0.5] * len(own) for own in sums]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(p: float) -> float:
    """The score difference that says p: the inverse of `sigmoid`, at most `SURE` either way, as a p may round to 1."""
    if p <= 0 or p >= 1:
        return math.copysign(SURE, p - 0.5)
    return max(-SURE, min(SURE, math.log(p) - math.log1p(-p)))


def uniform(*what: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments (JSON values): a draw that no batch can change."""
    digest = hashlib.blake2b(json.dumps(what).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
