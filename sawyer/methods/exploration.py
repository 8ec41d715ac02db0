"""Exploration by variants of the policy: some answers come from checkpoints of other steps (Dong et al. 2024, arXiv
2405.07863: the enhancer of algorithm 2 may be any policy near the main one, such as another checkpoint).

Candidates are, newest first: policies kept from the middle of the last training, the iterate that this training started
from, and so on back to pi_0. The current policy is none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from sawyer.settings import Settings


class ExploreSettings(Settings):
    """Answers of earlier policies."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Of the n completions of each prompt so many come from them; at least one, and one at least does not."""
    policies: int = Field(default=2, ge=1, le=8)
    """How many of them answer, the newest ones; there are fewer in the first iterations, and none in the first."""
    snapshots: int = Field(default=0, ge=0)
    """Policies to keep from each training between its first and its last update, evenly spaced."""


@dataclass(frozen=True)
class Variant:
    """A policy of another step.

    Attributes:
        iteration: whose training it comes from, from 1; 0 is pi_0.
        snapshot: its number among those kept during that training, from 1; None for what the training ended in.
    """

    iteration: int
    snapshot: int | None = None

    @property
    def name(self) -> str:
        """As a part of file names."""
        return f"{self.iteration}" if self.snapshot is None else f"{self.iteration}-{self.snapshot}"


def variants(t: int, settings: ExploreSettings) -> list[Variant]:
    """Which policies besides the current one answer in iteration t (from 0), newest first."""
    newest_first: list[Variant] = []
    for iteration in range(t, 0, -1):
        if iteration < t:  # the iterate t itself is the current policy
            newest_first.append(Variant(iteration))
        newest_first += [Variant(iteration, k) for k in range(settings.snapshots, 0, -1)]
    if t > 0:
        newest_first.append(Variant(0))
    return newest_first[: settings.policies]


def shares(n: int, others: int, share: float) -> list[int]:
    """How many of n completions the current policy gives, and each of `others`, newest first."""
    if not others:
        return [n]
    explored = min(n - 1, max(1, round(share * n)))
    return [n - explored, *(explored // others + (k < explored % others) for k in range(others))]


def snapshot_steps(total: int, count: int) -> list[int]:
    """After which of `total` updates to keep a policy: evenly spaced, the last one left out. Fewer where there is no
    room; then some numbers stand twice."""
    return [max(1, round(total * k / (count + 1))) for k in range(1, count + 1)]


def divided(n: int, temperatures: Sequence[float]) -> list[int]:
    """n completions divided evenly over temperatures, the first ones getting what is left over."""
    return [n // len(temperatures) + (k < n % len(temperatures)) for k in range(len(temperatures))]
