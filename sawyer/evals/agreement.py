"""How far raters of the same items agree: people with people, judges with people, judges with judges.

Pure arithmetic on labels. A label is a number, a text or None, which is missing; measures of a pair of raters are over
the items that both have labelled. Every figure has an interval over prompts: the clustered Wilson interval for shares,
a cluster bootstrap for the rest, given the calibration.

The bootstrap never goes back to the items. Items on which two raters say the same two labels are one kind, and every
measure is a function of how often each kind was seen, so all resamples are measured at once, as rows of counts:

    w_DM    how often each of M kinds stands in each of D resamples
    x_M, y_M    what the two raters say in each kind, or the number of that label among the rater's own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json

Label = float | str
Labels = Sequence[Label | None]
Vector = NDArray[np.float64]

NOMINAL = ("exact", "kappa")
"""Measures that need no numbers."""
NUMERIC = ("within_one", "mae", "rmse", "pearson", "spearman", "kendall", "kappa_linear", "kappa_quadratic")
"""Measures that need numbers of one scale or, the three correlations, of any."""
ALPHAS = ("nominal", "ordinal", "interval")
SHARES = ("exact", "within_one")
SLACK = 1e-9
"""What rounding may do to a difference of one."""
BLOCK = 4_000_000
"""Signs held at once where pairs of kinds are compared."""


def is_numeric(labels: Labels) -> bool:
    """Whether a rater's labels are numbers, all of them."""
    given = [label for label in labels if label is not None]
    return bool(given) and not any(isinstance(label, str) for label in given)


def pairs(raters: Mapping[str, Labels]) -> list[tuple[str, str]]:
    """Every two raters, in the order in which they are given."""
    return list(combinations(raters, 2))


def shared(x: Labels, y: Labels) -> NDArray[np.int64]:
    """Where both have a label.

    Raises:
        SawyerError: lists of different length.
    """
    if len(x) != len(y):
        raise SawyerError(f"two raters of the same items need as many labels, there are {len(x)} and {len(y)}")
    return np.flatnonzero([a is not None and b is not None for a, b in zip(x, y, strict=True)])


def pair_agreement(
    x: Labels,
    y: Labels,
    prompts: Sequence[object] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """How far two raters agree, over the items that both have labelled.

    exact             share of equal labels
    within_one        share of labels at most 1 apart
    mae, rmse         mean |x - y|, root of the mean (x - y)^2
    pearson, spearman, kendall    correlations; of ranks with ties shared; tau-b
    kappa             Cohen 1960: 1 - disagreement / disagreement expected of the two raters' labels independently
    kappa_linear, kappa_quadratic    the same with disagreement |x - y| and (x - y)^2 (Cohen 1968). Distances are those
                      of the labels, not of their places among the labels in use: an unused step of a scale counts

    Args:
        x, y: [n] labels.
        prompts: [n] the prompt of each item; whole prompts are resampled.
        level, draws, seed: of the intervals.

    Returns:
        figures `{"mean", "low", "high", "n"}`, n the number of prompts. Those of `NUMERIC` only where both raters'
        labels are numbers. `mean` is None where a measure is not defined (a rater who always says the same has no
        correlation), a bound where there is no interval.

    Raises:
        SawyerError: lists of different length, or no item that both have labelled.
    """
    where = shared(x, y)
    if not len(where):
        raise SawyerError("two raters who have labelled no item in common cannot be compared")
    numeric = is_numeric(x) and is_numeric(y)
    own, other = [x[i] for i in where], [y[i] for i in where]
    names = _some(prompts, where)
    exact = np.array([a == b for a, b in zip(own, other, strict=True)], dtype=np.float64)
    found = {"exact": stats.proportion(exact, names, level)}
    if numeric:
        a, b = np.array(own, dtype=np.float64), np.array(other, dtype=np.float64)
        found["within_one"] = stats.proportion(np.abs(a - b) <= 1 + SLACK, names, level)
    else:
        number = {label: i for i, label in enumerate(dict.fromkeys([*own, *other]))}
        a, b = (np.array([number[label] for label in labels], dtype=np.float64) for labels in (own, other))
    found |= _bootstrapped(a, b, names, numeric, level, draws, seed)
    return {name: _json(found[name]) for name in (*NOMINAL, *NUMERIC) if name in found}


def calibrated_agreement(
    calibrated: Vector,
    nearest: Vector,
    y: Vector,
    prompts: Sequence[object] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """As `pair_agreement`, of labels that a calibration has brought to the scale of `y`.

    A calibrated label is a mean of labels, such as 3.4: exact agreement and the kappas are of the label nearest to it,
    the others of the value itself.

    Args:
        calibrated, nearest: [n] see `monotone.cross_fitted`.
        y: [n] the other rater's labels.
    """
    found = {
        "exact": stats.proportion(nearest == y, prompts, level),
        "within_one": stats.proportion(np.abs(calibrated - y) <= 1 + SLACK, prompts, level),
        **_bootstrapped(nearest, y, prompts, True, level, draws, seed),
    }
    of_values = _bootstrapped(calibrated, y, prompts, True, level, draws, seed)
    found |= {name: estimate for name, estimate in of_values.items() if not name.startswith("kappa")}
    return {name: _json(found[name]) for name in (*NOMINAL, *NUMERIC)}


def krippendorff_alpha(
    raters: Sequence[Labels],
    prompts: Sequence[object] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Krippendorff's alpha of any number of raters, with labels missing where they are missing (Krippendorff 2011).

    alpha = 1 - D_o / D_e: an item with m labels has m (m - 1) ordered pairs of them, each of weight 1 / (m - 1), and an
    item with fewer than two has none. D_o is the weighted mean of delta^2(c, k) over these pairs, and D_e that over all
    pairs that the n labels in such items could form: sum_ck n_c n_k delta^2(c, k) / (n (n - 1)). delta^2 is
    (c != k) for nominal and (c - k)^2 for interval labels. For ordinal ones it is the square of the sum of n_g for g
    from c to k, less (n_c + n_k) / 2, which is the difference of the middles of their ranks: so ordinal alpha is
    interval alpha of these.

    Args:
        raters: [R][n] labels.
        prompts: [n] the prompt of each item; whole prompts are resampled (other than in Krippendorff's own bootstrap,
            which resamples pairs of labels as if these were independent).
        level, draws, seed: of the intervals.

    Returns:
        figures of `nominal`, and of `ordinal` and `interval` where all labels are numbers; `mean` is None where no two
        labels differ or no item has two.

    Raises:
        SawyerError: no raters, or lists of different length.
    """
    if not raters or len({len(labels) for labels in raters}) != 1 or not len(raters[0]):
        raise SawyerError("Krippendorff's alpha needs as many labels of each rater, at least one")
    every = {label for own in raters for label in own if label is not None}
    labels = sorted(every, key=lambda label: (isinstance(label, str), label))
    numeric = not any(isinstance(label, str) for label in labels)
    number = {label: i for i, label in enumerate(labels)}
    K = len(labels)
    cells: dict[tuple[int, int], int] = {}
    entries: list[tuple[int, int, float]] = []  # item, kind, count
    for item, own in enumerate(zip(*raters, strict=True)):
        given = sorted(number[label] for label in own if label is not None)
        if len(given) < 2:
            continue
        entries += [(item, label, 1.0) for label in given]  # the first K kinds: the labels themselves
        for cell in combinations(given, 2):  # the others: two labels that an item has, in both orders
            if cell[0] != cell[1]:
                entries.append((item, K + cells.setdefault(cell, len(cells)), 2 / (len(given) - 1)))
    at = np.array([entry[:2] for entry in entries], dtype=np.int64).reshape(-1, 2).T
    values = np.array([entry[2] for entry in entries], dtype=np.float64)
    counts = sparse.csr_array((values, (at[0], at[1])), shape=(len(raters[0]), K + len(cells)))
    c_M, k_M = (np.array([cell[i] for cell in cells], dtype=np.int64) for i in (0, 1))
    points = np.array(labels, dtype=np.float64) if numeric else None

    def measure(w_DM: Vector) -> dict[str, Vector]:
        n_DK, o_DM = w_DM[:, :K], w_DM[:, K:]
        n = n_DK.sum(1)
        expected = n**2 - (n_DK**2).sum(1)
        varies = expected > 0.5
        found = {"nominal": _one_less(o_DM.sum(1) * (n - 1), expected, varies)}
        if points is not None:
            middle = np.cumsum(n_DK, 1) - n_DK / 2
            for name, v_DK in (("ordinal", middle), ("interval", np.broadcast_to(points, n_DK.shape))):
                v_DK = v_DK - _ratio((n_DK * v_DK).sum(1), n, n > 0)[:, None]  # the sums below lose fewer digits
                observed = (o_DM * (v_DK[:, c_M] - v_DK[:, k_M]) ** 2).sum(1)
                squares = 2 * (n * (n_DK * v_DK**2).sum(1) - (n_DK * v_DK).sum(1) ** 2)
                found[name] = _one_less(observed * (n - 1), squares, varies)
        return found

    return {n: _json(e) for n, e in stats.bootstrap_counts(measure, counts, prompts, level, draws, seed).items()}


# --- one pair, by counts of its kinds ---------------------------------------------------------------------------------


def _bootstrapped(
    a: Vector, b: Vector, prompts: Sequence[object] | None, numeric: bool, level: float, draws: int, seed: int
) -> dict[str, stats.Estimate]:
    """Kappa, and where labels are `numeric` the other measures, of numbers a [n] and b [n]."""
    kinds, of_item = np.unique(np.stack([a, b], 1), axis=0, return_inverse=True)
    n = len(a)
    counts = sparse.csr_array((np.ones(n), (np.arange(n), of_item.ravel())), shape=(n, len(kinds)))
    pair = _Pair(kinds[:, 0], kinds[:, 1])
    measure = pair.measures if numeric else pair.nominal
    return stats.bootstrap_counts(measure, counts, prompts, level, draws, seed)


class _Pair:
    """The measures of two raters, given how often each kind of item was seen."""

    def __init__(self, x_M: Vector, y_M: Vector) -> None:
        # correlations and distances are the same from any origin, and near zero they lose no digits
        origin = x_M.mean(), y_M.mean()
        self.x_M, self.y_M, self.gap_M = x_M - origin[0], y_M - origin[1], x_M - y_M
        _, self.i_M = np.unique(x_M, return_inverse=True)
        _, self.j_M = np.unique(y_M, return_inverse=True)
        self.scale, at = np.unique(np.concatenate([x_M, y_M]), return_inverse=True)
        self.p_M, self.q_M = at[: len(x_M)], at[len(x_M) :]

    def nominal(self, w_DM: Vector) -> dict[str, Vector]:
        """Plain kappa."""
        n, x_DK, y_DK = w_DM.sum(1), _marginal(w_DM, self.p_M, self.scale), _marginal(w_DM, self.q_M, self.scale)
        expected = 1 - (x_DK * y_DK).sum(1) / n**2
        return {"kappa": _one_less(w_DM @ (self.gap_M != 0) / n, expected, expected > SLACK)}

    def measures(self, w_DM: Vector) -> dict[str, Vector]:
        """All of them but the shares."""
        n = w_DM.sum(1)
        absolute, square = w_DM @ np.abs(self.gap_M) / n, w_DM @ self.gap_M**2 / n
        mx, my = w_DM @ self.x_M / n, w_DM @ self.y_M / n
        x_DI, y_DJ = _marginal(w_DM, self.i_M), _marginal(w_DM, self.j_M)
        vary = (x_DI.max(1) < n) & (y_DJ.max(1) < n)
        x_DM, y_DM = self.x_M - mx[:, None], self.y_M - my[:, None]
        rx_DM, ry_DM = _ranks(x_DI)[:, self.i_M], _ranks(y_DJ)[:, self.j_M]
        # what |X - Y| and (X - Y)^2 are worth where X and Y are drawn each for itself
        below_x, below_y = (
            np.cumsum(_marginal(w_DM, at, self.scale), 1)[:, :-1] / n[:, None] for at in (self.p_M, self.q_M)
        )
        linear = (below_x * (1 - below_y) + below_y * (1 - below_x)) @ np.diff(self.scale)
        mean_gap = w_DM @ self.gap_M / n
        spread = (w_DM * x_DM**2).sum(1) / n + (w_DM * y_DM**2).sum(1) / n
        differ = linear > SLACK * max(1e-300, float(np.ptp(self.scale)))
        return {
            **self.nominal(w_DM),
            "mae": absolute,
            "rmse": np.sqrt(square),
            "pearson": _correlation(w_DM, x_DM, y_DM, vary),
            "spearman": _correlation(w_DM, rx_DM, ry_DM, vary),
            "kendall": self._kendall(w_DM, x_DI, y_DJ, vary),
            "kappa_linear": _one_less(absolute, linear, differ),
            "kappa_quadratic": _one_less(square, spread + mean_gap**2, differ),
        }

    def _kendall(self, w_DM: Vector, x_DI: Vector, y_DJ: Vector, vary: NDArray[np.bool_]) -> Vector:
        """tau-b = (concordant - discordant) / sqrt((pairs not tied in x) (pairs not tied in y)) (Kendall 1945)."""
        n, M = w_DM.sum(1), w_DM.shape[1]
        twice = np.zeros(len(n))  # concordant - discordant pairs, in both orders
        size = max(1, BLOCK // M)
        for start in range(0, M, size):
            part = slice(start, start + size)
            signs = np.sign(self.i_M[part, None] - self.i_M) * np.sign(self.j_M[part, None] - self.j_M)
            twice += ((w_DM @ signs.T.astype(np.float64)) * w_DM[:, part]).sum(1)
        untied_x, untied_y = (n**2 - (marginal**2).sum(1) for marginal in (x_DI, y_DJ))
        return np.clip(_ratio(twice, np.sqrt(untied_x * untied_y), vary), -1, 1)


def _marginal(w_DM: Vector, at_M: NDArray[np.int64], scale: Vector | None = None) -> Vector:
    """How often each label of one rater was seen."""
    K = int(at_M.max()) + 1 if scale is None else len(scale)
    M = len(at_M)
    onto = sparse.csr_array((np.ones(M), (at_M, np.arange(M))), shape=(K, M))
    return np.ascontiguousarray((onto @ w_DM.T).T)


def _ranks(n_DK: Vector) -> Vector:
    """The rank of each label where equal ones share theirs, less the mean rank."""
    return np.cumsum(n_DK, 1) - n_DK / 2 - n_DK.sum(1, keepdims=True) / 2


def _correlation(w_DM: Vector, x_DM: Vector, y_DM: Vector, vary: NDArray[np.bool_]) -> Vector:
    """Of x and y whose means are taken off."""
    xy, xx, yy = ((w_DM * a * b).sum(1) for a, b in ((x_DM, y_DM), (x_DM, x_DM), (y_DM, y_DM)))
    return np.clip(_ratio(xy, np.sqrt(xx * yy), vary), -1, 1)


def _ratio(a: Vector, b: Vector, defined: NDArray[np.bool_]) -> Vector:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=defined)


def _one_less(a: Vector, b: Vector, defined: NDArray[np.bool_]) -> Vector:
    return 1 - _ratio(a, b, defined)


def _some(prompts: Sequence[object] | None, where: NDArray[np.int64]) -> list[object] | None:
    return None if prompts is None else [prompts[i] for i in where]


def _json(estimate: stats.Estimate) -> dict[str, Any]:
    figure = as_json(estimate)
    return figure | {"mean": figure["mean"] if np.isfinite(figure["mean"]) else None}
