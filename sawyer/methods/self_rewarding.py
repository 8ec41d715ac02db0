"""Self-rewarding language models (Yuan et al. 2024, arXiv 2401.10020): what is not in `iterative` and `self_instruct`.

    M_1 = M_0 tuned on instructions and on evaluations that agree with people's ranks
    for t = 1 .. T:
        M_t makes new prompts out of the seeds, answers each n times, and gives each answer up to five points
        M_{t+1} = M_t after DPO on the best and the worst of each prompt, against M_t

Here are the evaluations: which of a model's own agree with people, and what people's ranks say as points.

Differences, on purpose: the policy itself makes the prompts (the paper asks a larger chat model, which a recipe can
name too); a judgement that cannot be read is no rating, and its answer in no pair.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from sawyer.data.records import Comparison

T = TypeVar("T")


def agreeing(points: Sequence[Sequence[float | None]]) -> list[int]:
    """In which samples a judge agrees with the ranking of a prompt's answers: it gives no answer more points than one
    that people rank higher, and the best more than the last.

    Args:
        points: [K][S] of the K answers, best first, in each of S samples; None where there are none.
    """
    kept = []
    for sample, own in enumerate(zip(*points, strict=True)):
        given = [value for value in own if value is not None]
        ordered = len(given) == len(own) and all(a >= b for a, b in pairwise(given))
        if ordered and given[0] > given[-1]:
            kept.append(sample)
    return kept


def people_points(records: Sequence[Comparison], low: int, high: int) -> list[list[int]]:
    """What people say of answers as whole points: of scores, from the lowest in all records to the highest; where
    records have none, of ranks, evenly from the last to the best of each prompt.

    Returns:
        one for each completion of each record, best first.
    """
    scores = [score for record in records for score in record.scores or ()]
    if all(record.scores is not None for record in records):
        lowest, span = min(scores), max(scores) - min(scores)
        return [[round(low + (high - low) * (s - lowest) / span) for s in record.scores or ()] for record in records]
    steps = [len(record.completions) - 1 for record in records]
    return [[round(high - (high - low) * rank / step) for rank in range(step + 1)] for step in steps]


def balanced(examples: Sequence[T], points: Sequence[float], most: float, seed: int = 0) -> list[T]:
    """The examples without some of those whose points more than the share `most` of them have, drawn at random.

    The paper discards some of those with four points, which its model gives too often. Where so few different points
    occur that they cannot all be within the share, each is left as often as the rarest; where all are the same, all
    examples stay.
    """
    counts = Counter(points)
    if len(counts) < 2:
        return list(examples)
    caps = range(max(counts.values()), 0, -1)
    cap = next((c for c in caps if c <= most * sum(min(count, c) for count in counts.values())), min(counts.values()))
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    kept: set[int] = set()
    left = dict.fromkeys(counts, cap)
    for i in order:
        if left[points[i]]:
            left[points[i]] -= 1
            kept.add(i)
    return [example for i, example in enumerate(examples) if i in kept]
