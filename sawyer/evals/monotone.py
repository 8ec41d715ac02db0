"""Bringing one rater's labels to another's scale, without changing their order.

A judge who gives 9 where people give 6 does not disagree with them about which answer is better. Isotonic regression of
the people's labels on the judge's (Barlow et al. 1972) takes the scale out; what disagreement is left is the judge's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json
from sawyer.evals.reward_bias import equal_mass_bins

Vector = NDArray[np.float64]

POINTS = 12
"""A curve has at most so many points: the labels themselves where there are no more of them."""


def cross_fitted(
    x: Vector, y: Vector, prompts: Sequence[object] | None = None, *, folds: int = 5, seed: int = 0
) -> tuple[Vector, Vector]:
    """The labels `x` on the scale of `y`, each by a map that was fitted on other prompts.

    The prompts are dealt into folds; an item's map is fitted on all folds but its own. The map may fall where the two
    raters' scales run against each other; which way it goes is fitted too. Since each fold has a map of its own, labels
    that were equal may come out slightly different, and a rater who knows nothing of `y` gets the mean of the other
    folds, whose correlation with `y` is a little below zero.

    Args:
        x, y: [n] labels of the two raters.
        prompts: [n] the prompt of each item.
        folds: how many; as many as there are prompts where these are fewer.
        seed: of the dealing.

    Returns:
        [n] the calibrated labels, means of labels of y; and [n] for each the nearest label that y has on the folds it
        was fitted on (the lower of two that are equally near).

    Raises:
        SawyerError: fewer than two prompts or folds, or lists of different length.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.model_selection import GroupKFold

    if len(x) != len(y):
        raise SawyerError(f"a calibration needs two labels of each item, there are {len(x)} and {len(y)}")
    groups = stats.cluster_numbers(range(len(x)) if prompts is None else prompts, len(x))
    n = len(np.unique(groups))
    if n < 2 or folds < 2:
        raise SawyerError(
            "a calibration needs two prompts and two folds at least, to be measured on what it has not seen"
        )
    values, nearest = np.empty(len(x)), np.empty(len(x))
    dealt = GroupKFold(min(folds, n), shuffle=True, random_state=seed).split(x, groups=groups)
    for fitted_on, inside in dealt:
        a, b = x[fitted_on], y[fitted_on]
        rising = bool((a - a.mean()) @ (b - b.mean()) >= 0)
        found = IsotonicRegression(increasing=rising, out_of_bounds="clip").fit(a, b).predict(x[inside])
        labels = np.unique(b)
        values[inside] = found
        nearest[inside] = labels[np.abs(found[:, None] - labels).argmin(1)]
    return values, nearest


def curve(
    x: Vector, y: Vector, calibrated: Vector, prompts: Sequence[object] | None = None, *, level: float = 0.95
) -> list[dict[str, Any]]:
    """What `y` says where `x` says this, for each label of x, or for bins of them.

    Returns:
        `[{"label", "n", "mean", "calibrated"}]`, rising: the (mean) label of x, its items, the mean label of y as a
        figure, and the mean calibrated label.
    """
    labels, of_item = np.unique(x, return_inverse=True)
    if len(labels) > POINTS:
        of_item = equal_mass_bins(x, POINTS)
    points = []
    for number in np.unique(of_item):
        inside = np.flatnonzero(of_item == number)
        names = None if prompts is None else [prompts[int(i)] for i in inside]
        points.append(
            {
                "label": float(x[inside].mean()),
                "n": len(inside),
                "mean": as_json(stats.bootstrap_mean(y[inside], names, level, draws=1_000)),
                "calibrated": float(calibrated[inside].mean()),
            }
        )
    return points
