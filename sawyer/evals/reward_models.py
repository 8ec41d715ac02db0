"""How good a reward model is on held-out pairs: does it rank them right, does it know how sure it is, is it length?

Pure arithmetic on margins, reward(chosen) - reward(rejected). Read as a logit, a margin m says
P(chosen beats rejected) = sigmoid(m) (Bradley & Terry 1952).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json
from sawyer.evals.reward_bias import equal_mass_bins

TEMPERATURES = (0.01, 100.0)
"""Where a temperature is looked for; margins that are all right want 0, margins worse than chance infinity."""


def evaluate(
    margins: ArrayLike,
    chosen_lengths: Sequence[int] | None = None,
    rejected_lengths: Sequence[int] | None = None,
    *,
    prompts: Sequence[object] | None = None,
    fitting: ArrayLike | None = None,
    bins: int = 10,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, proper scores and calibration of a reward model, and what the longer completion alone would score.

    Args:
        margins: [n] reward(chosen) - reward(rejected).
        chosen_lengths: [n] length of each chosen completion, in tokens (or any unit).
        rejected_lengths: [n] of each rejected one.
        prompts: [n] the prompt of each pair; pairs of a prompt are resampled and split together.
        fitting: [k] margins of other pairs, to fit the temperature on; one half of the prompts when left out.
        bins: of the reliability diagram, equally wide over confidences 0.5 to 1.
        level: coverage of the intervals.
        draws: bootstrap resamples.
        seed: of the resampling and of the split for calibration.

    Returns:
        JSON-able. Figures are `{"mean", "low", "high", "n"}`:
        `accuracy` (margin > 0 is right, a tie is wrong; Wilson), `accuracy_ties_half`, `log_loss`, `brier`, `margin`,
        `longer_wins` (accuracy of choosing the longer, ties half) and `accuracy_by_length` where lengths are given;
        `ties`, a count; `calibration` with `ece`, `adaptive_ece` and `reliability` over all pairs; the `temperature`,
        `fitted_on` so many pairs; and `ece`, `adaptive_ece`, `brier` and `log_loss` with `_before` and `_after` it, and
        `reliability_after`, `measured_on` so many: all pairs where `fitting` is given, else the other half, and absent
        with fewer than 4 pairs or 2 prompts.

    Raises:
        SawyerError: no pairs, a margin that is not finite, or lengths or prompts of another number.
    """
    m = _margins(margins, "to evaluate it on")
    for name, column in (("lengths", chosen_lengths), ("lengths", rejected_lengths), ("prompts", prompts)):
        if column is not None and len(column) != m.size:
            raise SawyerError(f"there are {m.size} margins but {len(column)} {name}")
    if bins < 1:
        raise SawyerError(f"a reliability diagram needs at least one bin, not {bins}")

    fit = None if fitting is None else _margins(fitting, "to fit its temperature on")
    result: dict[str, Any] = {
        "pairs": m.size,
        "prompts": len(set(prompts)) if prompts is not None else m.size,
        "level": level,
        "seed": seed,
        "accuracy": as_json(stats.proportion(m > 0, prompts, level)),
        "accuracy_ties_half": as_json(stats.win_rate(m, np.zeros_like(m), prompts, level)),
        "ties": int(np.count_nonzero(m == 0)),
        "log_loss": as_json(stats.bootstrap_mean(_log_losses(m), prompts, level, draws, seed)),
        "brier": as_json(stats.bootstrap_mean(_briers(m), prompts, level, draws, seed)),
        "margin": as_json(stats.bootstrap_mean(m, prompts, level, draws, seed)),
        "calibration": _calibration(m, fit, prompts, bins, level, draws, seed),
    }
    if chosen_lengths is not None and rejected_lengths is not None:
        result |= _length_bias(m, np.asarray(chosen_lengths), np.asarray(rejected_lengths), prompts, level)
    return result


def reliability(margins: ArrayLike, bins: int = 10) -> list[dict[str, Any]]:
    """The reliability diagram: for each bin of confidence, how often pairs in it are ranked right.

    The confidence is that in the completion the model ranks first, sigmoid(|margin|) in [0.5, 1]; asking instead for
    P(first beats second) over both orders of every pair gives the same diagram twice, mirrored. A tie is half right.

    Returns:
        one `{"low", "high", "n", "confidence", "accuracy"}` for each of the `bins`; confidence and accuracy are None
        in an empty one, which has weight 0 in the ECE and keeps its place.
    """
    m = np.asarray(margins, dtype=np.float64)
    confidence, right, of_pair = special.expit(np.abs(m)), _right(m), _bin_of(m, bins)
    edges = np.linspace(0.5, 1, bins + 1)
    diagram = []
    for b in range(bins):
        inside = of_pair == b
        n = int(inside.sum())
        diagram.append(
            {
                "low": float(edges[b]),
                "high": float(edges[b + 1]),
                "n": n,
                "confidence": float(confidence[inside].mean()) if n else None,
                "accuracy": float(right[inside].mean()) if n else None,
            }
        )
    return diagram


def expected_calibration_error(margins: ArrayLike, bins: int = 10) -> float:
    """ECE = sum_b n_b / n |accuracy_b - confidence_b|, equally wide bins (Naeini et al. 2015; Guo et al. 2017)."""
    m = np.asarray(margins, dtype=np.float64)
    return _ece(m, _bin_of(m, bins))


def adaptive_calibration_error(margins: ArrayLike, bins: int = 10) -> float:
    """The ECE over bins of about equally many pairs (Nguyen & O'Connor 2015); pairs of one confidence share a bin.

    Equally wide bins hold nearly all pairs in one or two where a model is nearly always sure; these do not.
    """
    m = np.asarray(margins, dtype=np.float64)
    return _ece(m, equal_mass_bins(special.expit(np.abs(m)), bins))


def _ece(m: stats.Vector, of_pair: np.ndarray) -> float:
    gaps = np.bincount(of_pair, weights=_right(m) - special.expit(np.abs(m)))
    return float(np.abs(gaps).sum() / len(m))


def fit_temperature(margins: ArrayLike) -> float:
    """The T that minimises the log loss of sigmoid(margin / T) (temperature scaling, Guo et al. 2017).

    The loss is convex in 1 / T, so a bounded scalar search over log T finds its minimum within TEMPERATURES.
    """
    m = np.asarray(margins, dtype=np.float64)
    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(
        lambda log_t: float(np.logaddexp(0, -m * np.exp(-log_t)).mean()),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def _margins(margins: ArrayLike, purpose: str) -> stats.Vector:
    m = np.asarray(margins, dtype=np.float64)
    if m.ndim != 1 or m.size == 0:
        raise SawyerError(f"a reward model was given no pairs {purpose}; give it a held-out file or part with some")
    if not np.isfinite(m).all():
        bad = int(np.count_nonzero(~np.isfinite(m)))
        raise SawyerError(f"the reward model gave {bad} of {m.size} pairs a margin that is not a finite number")
    return m


def _log_losses(m: stats.Vector) -> stats.Vector:
    return np.logaddexp(0, -m)


def _briers(m: stats.Vector) -> stats.Vector:
    return special.expit(-m) ** 2


def _right(m: stats.Vector) -> stats.Vector:
    return (m > 0) + 0.5 * (m == 0)


def _bin_of(m: stats.Vector, bins: int) -> np.ndarray:
    """[n] the bin of each pair's confidence; a confidence of 1 belongs to the last."""
    return np.minimum(((special.expit(np.abs(m)) - 0.5) * 2 * bins).astype(int), bins - 1)


def _calibration(
    m: stats.Vector,
    fit: stats.Vector | None,
    prompts: Sequence[object] | None,
    bins: int,
    level: float,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    def errors(values: stats.Vector, names: Sequence[object] | None) -> dict[str, Any]:
        wide, full = _bin_of(values, bins), equal_mass_bins(special.expit(np.abs(values)), bins)
        return {
            "ece": as_json(_ece_estimate(values, wide, names, level, draws, seed)),
            "adaptive_ece": as_json(_ece_estimate(values, full, names, level, draws, seed)),
        }

    def scores(values: stats.Vector, names: Sequence[object]) -> dict[str, Any]:
        return {
            **errors(values, names),
            "brier": as_json(stats.bootstrap_mean(_briers(values), names, level, draws, seed)),
            "log_loss": as_json(stats.bootstrap_mean(_log_losses(values), names, level, draws, seed)),
        }

    calibration: dict[str, Any] = {"bins": bins, **errors(m, prompts), "reliability": reliability(m, bins)}
    rest, names = m, list(range(len(m))) if prompts is None else list(prompts)
    if fit is None:
        units = list(dict.fromkeys(names))
        if len(m) < 4 or len(units) < 2:
            return calibration
        shuffled = np.random.default_rng(seed).permutation(len(units))
        fitted_on = {units[i] for i in shuffled[: len(units) // 2]}
        inside = np.array([name in fitted_on for name in names])
        fit, rest = m[inside], m[~inside]
        names = [name for name, fits in zip(names, inside, strict=True) if not fits]
    temperature = fit_temperature(fit)
    calibrated = rest / temperature
    return calibration | {
        "temperature": temperature,
        "fitted_on": len(fit),
        "measured_on": len(rest),
        **{f"{name}_before": figure for name, figure in scores(rest, names).items()},
        **{f"{name}_after": figure for name, figure in scores(calibrated, names).items()},
        "reliability_after": reliability(calibrated, bins),
    }


def _ece_estimate(
    m: stats.Vector, bin_of: np.ndarray, prompts: Sequence[object] | None, level: float, draws: int, seed: int
) -> stats.Estimate:
    """The ECE over given bins with a basic bootstrap interval, 2 ECE - quantiles, cut at 0 and widened to hold the ECE.

    The ECE of a sample lies above that of the population, and that of a resample above both; the basic interval
    reflects this bias where the percentile interval would add it.
    """
    ece, bins = _ece(m, bin_of), int(bin_of.max()) + 1
    numbers: dict[object, int] = {}
    names = range(len(m)) if prompts is None else prompts
    of_pair = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    n = len(numbers)
    if n < 2:
        return stats.Estimate(ece, np.nan, np.nan, n)
    gaps = np.bincount(of_pair * bins + bin_of, _right(m) - special.expit(np.abs(m)), n * bins)
    gaps_by_bin, pairs = gaps.reshape(n, bins), np.bincount(of_pair)
    rng = np.random.default_rng(seed)
    resampled = []
    for size in stats.chunks(draws, n):
        times = rng.multinomial(n, np.full(n, 1 / n), size)
        resampled.append(np.abs(times @ gaps_by_bin).sum(1) / (times @ pairs))
    low, high = np.quantile(np.concatenate(resampled), [(1 - level) / 2, (1 + level) / 2])
    return stats.Estimate(ece, max(0.0, min(ece, 2 * ece - high)), max(ece, 2 * ece - low), n)


def _length_bias(
    m: stats.Vector, chosen: np.ndarray, rejected: np.ndarray, prompts: Sequence[object] | None, level: float
) -> dict[str, Any]:
    """What choosing the longer one scores, and the model's accuracy where that is right, wrong and no help."""
    longer = chosen - rejected
    by_length = {}
    for name, where in (("chosen_longer", longer > 0), ("chosen_shorter", longer < 0), ("same_length", longer == 0)):
        if where.any():
            names = None if prompts is None else [p for p, w in zip(prompts, where, strict=True) if w]
            by_length[name] = as_json(stats.proportion(_right(m[where]), names, level))
    return {
        "longer_wins": as_json(stats.win_rate(chosen, rejected, prompts, level)),
        "accuracy_by_length": by_length,
    }
