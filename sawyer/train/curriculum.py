"""The order of preference data by difficulty, easy first: curricula (Bengio et al. 2009) and Curri-DPO (Pattnaik et al.
2024, arXiv 2403.05911), which trains on parts of the data from the widest margin to the narrowest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from sawyer.errors import SawyerError
from sawyer.train.loop import Source
from sawyer.train.preference import REFERENCE
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.tree import TokenTree

Difficulty = Literal["score_margin", "reference_margin", "length"]


def difficulties(by: Difficulty, trees: Sequence[TokenTree], margins: Sequence[float | None]) -> list[float]:
    """How hard each pair (or ranking) is; higher is harder.

    score_margin: the closer the best's score is to the worst's. reference_margin: the less the reference prefers the
    best by itself, in mean log-prob a token, so that length does not decide. length: the tokens of prompt and
    completions.

    Args:
        trees: best completion first; they carry `REFERENCE` for `reference_margin`.
        margins: best score less worst; None of those without scores.

    Raises:
        SawyerError: `score_margin`, and there is a pair without scores.
    """
    if by == "length":
        return [float(tree.tokens) for tree in trees]
    if by == "reference_margin":
        return [-_reference_margin(tree) for tree in trees]
    for number, margin in enumerate(margins, 1):
        if margin is None:
            raise SawyerError(
                f"`curriculum: score_margin` needs the `scores` of all comparisons, and number {number} has none: take "
                "`reference_margin` or `length`, or give data with scores"
            )
    return [-margin for margin in margins if margin is not None]


def _reference_margin(tree: TokenTree) -> float:
    means = [logp / len(own) for logp, own in zip(tree.values[REFERENCE], tree.completions, strict=True)]
    return means[0] - means[-1]


def easy_first(difficulty: Sequence[float]) -> list[int]:
    """Indices from easy to hard; equals keep their order."""
    return sorted(range(len(difficulty)), key=difficulty.__getitem__)


def cut(count: int, parts: int) -> list[range]:
    """`count` things in order as `parts` stretches whose lengths differ by one at most."""
    ends = [count * k // parts for k in range(parts + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


def in_order(trees: Sequence[TokenTree], settings: OptimizerSettings) -> tuple[Source, OptimizerSettings]:
    """The trees as a source of updates that keeps their order, pass after pass, and the settings with the number of
    updates that `epochs` means."""
    size = settings.batch_size

    def source(step: int) -> tuple[list[TokenTree], dict[str, float]]:
        return [trees[(step * size + k) % len(trees)] for k in range(size)], {}

    return source, settings.model_copy(update={"steps": settings.updates(len(trees))})
