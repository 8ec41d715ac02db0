"""How well a judge's ratings of single answers order them as people do, prompt by prompt (Yuan et al. 2024).

    pairwise    of two answers to a prompt that people rank, how often the better one is rated higher; equal ratings,
                and an answer without one, count half
    ties        how often the two are rated alike
    spearman, kendall    correlation (of ranks; tau-b) with people's order, a mean over prompts. A judge who rates all
                answers of a prompt alike orders nothing, and counts 0 there
    exact       share of prompts whose whole order is people's
    unread      share of the judge's replies that could not be read, or did not come

Ratings of different prompts are never compared, so that people's ranks, which say nothing across prompts, will do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json


def judge_accuracy(
    ratings: Sequence[Sequence[float]],
    unread: Sequence[Sequence[float]],
    *,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The figures above, each with an interval over prompts (Wilson's for shares, a bootstrap for correlations).

    Args:
        ratings: [prompts][K] of the answers in people's order, best first; not a number for one without a rating.
        unread: [prompts][K] the share of each answer's replies that could not be read.
        level, draws, seed: of the intervals.

    Raises:
        SawyerError: there is no prompt with two answers.
    """
    own = [(number, np.asarray(given, dtype=np.float64)) for number, given in enumerate(ratings) if len(given) > 1]
    if not own:
        raise SawyerError("a judge's accuracy needs prompts with two answers or more that people have ranked")
    right, ties, clusters = [], [], []
    for number, given in own:
        for better, worse in combinations(given, 2):
            tied = math.isnan(better - worse) or better == worse
            ties.append(float(tied))
            right.append(0.5 if tied else float(better > worse))
            clusters.append(number)
    missed = [share for of_prompt in unread for share in of_prompt]
    whose = [number for number, of_prompt in enumerate(unread) for _ in of_prompt]
    correlations = {name: [_correlation(name, given) for _, given in own] for name in ("spearman", "kendall")}
    return {
        "pairwise": as_json(stats.proportion(right, clusters, level)),
        "ties": as_json(stats.proportion(ties, clusters, level)),
        **{
            name: as_json(stats.bootstrap_mean(values, level=level, draws=draws, seed=seed))
            for name, values in correlations.items()
        },
        "exact": as_json(stats.proportion([float((np.diff(given) < 0).all()) for _, given in own], level=level)),
        "unread": as_json(stats.proportion(missed, whose, level)),
    }


def _correlation(name: str, ratings: np.ndarray) -> float:
    """Of the answers with a rating; 0 where fewer than two have one or all are alike."""
    places = np.flatnonzero(~np.isnan(ratings))
    given = ratings[places]
    if len(given) < 2 or (given == given[0]).all():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure = scipy_stats.spearmanr if name == "spearman" else scipy_stats.kendalltau
        return float(measure(-places, given).statistic)
