"""Which prompts share a cache, and how many sequences run at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much may run at a time: sequences, and tokens that their cache holds."""

    max_batch: int
    token_budget: int


def cohorts(lengths: Sequence[int], n: int, limits: Limits) -> Iterator[tuple[list[int], int]]:
    """Groups of prompts that generate over one cache, and how many sequences at a time: the longest prompts first.

    All slots of a cache are as long as its longest sequence, so a few long prompts would leave room for few sequences:
    where that is half of what the shorter ones allow, these have a cache of their own. Within a group, neighbours are
    of like length, so that a batch reads little cache that only its longest sequence fills.

    Args:
        lengths: tokens that a sequence of each prompt may come to.
        n: sequences per prompt.
    """

    def slots(index: int) -> int:
        return max(1, min(limits.max_batch, limits.token_budget // lengths[index]))

    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    for at in range(1, len(order) + 1):
        if at == len(order) or slots(order[at]) >= 2 * slots(order[start]):
            yield order[start:at], min(slots(order[start]), (at - start) * n)
            start = at
