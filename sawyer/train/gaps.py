"""How the difference between the scores of a pair's completions enters the loss of a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from sawyer.data.records import Comparison
from sawyer.errors import SawyerError
from sawyer.train.objectives import MARGIN, SCALE, WEIGHT
from sawyer.trees.tree import TokenTree

Gap = Literal["margin", "weight", "square"]


def score_gaps(records: Sequence[Comparison]) -> list[float]:
    """The chosen completion's score less the rejected one's, for each pair; always positive.

    Raises:
        SawyerError: a record has no scores, or more than two completions.
    """
    gaps = []
    for number, record in enumerate(records, 1):
        if len(record.completions) > 2:
            raise SawyerError(
                f"`gap` is for pairs, and comparison {number} has {len(record.completions)} completions: set "
                "`gap: ignore` to learn whole rankings, or give pairs"
            )
        if record.scores is None:
            raise SawyerError(
                f"`gap` needs the scores of both completions, and comparison {number} has none: set `gap: ignore`, or "
                "give data with `scores`"
            )
        gaps.append(record.scores[0] - record.scores[1])
    return gaps


def mean_gap(gaps: Sequence[float]) -> float:
    """The mean difference, by which weights are divided."""
    return sum(gaps) / len(gaps)


def with_gaps(
    trees: Sequence[TokenTree], gaps: Sequence[float], how: Gap, *, scale: float = 1.0, mean: float = 1.0
) -> list[TokenTree]:
    """The trees of pairs, each carrying what its difference in score `gap` means to the loss.

    Args:
        how: `margin`, m = r_w - r_l - scale * gap (Llama 2, arXiv 2307.09288); `weight`, the loss times gap / mean;
            `square`, m = (scale * gap)^2 (r_w - r_l) (SAWYER's, of each pair its own).
        mean: the mean gap of the training data, so that weights have a mean of 1 there.
    """
    return [
        replace(tree, values={**tree.values, **_values(gap, how, scale, mean)})
        for tree, gap in zip(trees, gaps, strict=True)
    ]


def _values(gap: float, how: Gap, scale: float, mean: float) -> Mapping[str, Sequence[float]]:
    if how == "margin":
        return {MARGIN: [scale * gap] * 2}
    if how == "weight":
        return {WEIGHT: [gap / mean] * 2}
    return {SCALE: [(scale * gap) ** 2] * 2}
