"""How sure one can be: intervals, paired tests and effect sizes for evaluations of language models.

Samples of one prompt resemble each other, so the independent unit of an evaluation is the prompt and not the
completion. Wherever `clusters` is taken, it names the prompt of each value and whole prompts are resampled (Cameron,
Gelbach & Miller 2008; for language models, Miller 2024, "Adding error bars to evals").

All functions are pure: the same numbers and the same seed give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

from sawyer.errors import SawyerError

Vector = NDArray[np.float64]

CHUNK = 2_000_000
"""Random numbers held at once, which bounds the memory of resampling at a few tens of MB."""
DEFINED = 0.9
"""Share of resamples in which a statistic must be defined to have an interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the interval around it.

    Attributes:
        mean: the point estimate.
        low: lower end of the interval; NaN when there is one unit only, which says nothing of its spread.
        high: upper end of the interval; NaN likewise.
        n: independent units behind it: clusters where clusters were given, else values.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False when there is no interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference a - b, with its test.

    Attributes:
        p_value: two-sided, of the paired sign-flip permutation test.
        effect_size: Cohen's d of the paired differences; NaN when they do not vary.
        sd: standard deviation of the paired differences (ddof 1); NaN with one unit.
    """

    p_value: float
    effect_size: float
    sd: float


def bootstrap_mean(
    values: ArrayLike, clusters: Sequence[object] | None = None, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean of `values` with a percentile bootstrap interval (Efron 1979).

    Args:
        values: [n] finite numbers.
        clusters: [n] which cluster each value belongs to; whole clusters are then resampled. Every value keeps the
            same weight, so the mean is the plain mean of the values.
        level: coverage of the interval.
        draws: resamples.
        seed: of the resampling.

    Raises:
        SawyerError: no values, a value that is not finite, or lengths that differ.
    """
    vector = _vector(values)
    mean = float(vector.mean())
    sums, counts = cluster_sums(vector, clusters)
    if len(sums) < 2:
        return Estimate(mean, math.nan, math.nan, len(sums))
    low, high = np.quantile(resampled_means(sums, counts, draws, seed), _tails(level))
    return Estimate(mean, float(low), float(high), len(sums))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Difference:
    """By how much `a` exceeds `b` on the same units, with interval, test and effect size.

    With clusters the differences are averaged in each cluster first, and every cluster weighs the same: the test
    flips the signs of clusters, and the estimate is the mean it tests.

    The test is the paired sign-flip permutation test (Fisher 1935): if a and b do not differ, each difference is as
    likely to have had the other sign. It is exact (all 2^n sign patterns) when there are at most `draws` of them;
    otherwise Monte Carlo, p = (k + 1) / (m + 1) (Phipson & Smyth 2010), which is never zero.

    Raises:
        SawyerError: no values, a value that is not finite, or lengths that differ.
    """
    left, right = _pairs(a, b)
    sums, counts = cluster_sums(left - right, clusters)
    differences = sums / counts
    estimate = bootstrap_mean(differences, level=level, draws=draws, seed=seed)
    return Difference(
        estimate.mean,
        estimate.low,
        estimate.high,
        estimate.n,
        p_value=sign_flip_test(differences, draws, seed),
        effect_size=cohens_d(differences),
        sd=float(differences.std(ddof=1)) if len(differences) > 1 else math.nan,
    )


def bootstrap_counts(
    measure: Callable[[Vector], Mapping[str, Vector]],
    counts: sparse.csr_array,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Statistics that depend on how often each kind of thing was seen, with percentile bootstrap intervals.

    A resample is then a row of counts, and all resamples are measured at once. An interval is over the resamples in
    which the statistic is defined; where these are fewer than DEFINED of all, there is none.

    Args:
        measure: [D, M] counts of M kinds in D resamples to name -> [D] values, NaN where not defined.
        counts: [n, M] what each of n values adds to the counts.
        clusters: [n] which cluster each value belongs to; whole clusters are resampled.
        level, draws, seed: as in `bootstrap_mean`.

    Returns:
        for each name the statistic of all values (`mean`) and its interval.

    Raises:
        SawyerError: no values, or labels of another number.
    """
    if counts.shape[0] == 0:
        raise SawyerError("statistics need at least one value")
    of_value = cluster_numbers(range(counts.shape[0]) if clusters is None else clusters, counts.shape[0])
    n = int(of_value.max()) + 1
    ones = np.ones(len(of_value))
    member = sparse.csr_array((ones, (of_value, np.arange(len(of_value)))), shape=(n, len(of_value)))
    by_cluster = (member @ counts).T.tocsr()  # [M, G]
    whole = measure(np.asarray(by_cluster.sum(1), dtype=np.float64).reshape(1, -1))
    if n < 2:
        return {name: Estimate(float(value[0]), math.nan, math.nan, n) for name, value in whole.items()}
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[Vector]] = {name: [] for name in whole}
    for size in chunks(draws, max(n, counts.shape[1])):
        times = rng.multinomial(n, np.full(n, 1 / n), size).astype(np.float64)
        for name, values in measure(np.ascontiguousarray((by_cluster @ times.T).T)).items():
            resampled[name].append(values)
    found = {}
    for name, value in whole.items():
        values = np.concatenate(resampled[name])
        defined = values[np.isfinite(values)]
        enough = np.isfinite(value[0]) and len(defined) >= DEFINED * draws
        low, high = np.quantile(defined, _tails(level)) if enough else np.full(2, math.nan)
        found[name] = Estimate(float(value[0]), float(low), float(high), n)
    return found


def sign_flip_test(differences: ArrayLike, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p value of the hypothesis that `differences` [n] are symmetric around zero."""
    d = _vector(differences)
    d = d[d != 0]  # flipping a zero changes nothing
    n = len(d)
    if n == 0:
        return 1.0
    threshold = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums of other order are equal but for rounding
    if 2**n <= draws:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ d) >= threshold))
    rng = np.random.default_rng(seed)
    as_extreme = 0
    for size in chunks(draws, n):
        signs = 2.0 * rng.integers(0, 2, (size, n), dtype=np.int8) - 1.0
        as_extreme += int(np.count_nonzero(np.abs(signs @ d) >= threshold))
    return (as_extreme + 1) / (draws + 1)


def win_rate(a: ArrayLike, b: ArrayLike, clusters: Sequence[object] | None = None, level: float = 0.95) -> Estimate:
    """How often `a` beats `b` on the same units; a tie counts half. The interval is that of `proportion`.

    Raises:
        SawyerError: no values, a value that is not finite, or lengths that differ.
    """
    left, right = _pairs(a, b)
    return proportion((left > right) + 0.5 * (left == right), clusters, level)


def proportion(shares: ArrayLike, clusters: Sequence[object] | None = None, level: float = 0.95) -> Estimate:
    """The mean of values in [0, 1] with a Wilson interval at the effective sample size.

    The effective size is p (1 - p) / Var(mean), with the variance taken over clusters (Korn & Graubard 1998, with
    Wilson's interval as in Franco et al. 2019). For unclustered zeros and ones it is n, so this is Wilson's interval.
    Unlike a bootstrap it has a width when every value is the same.

    Raises:
        SawyerError: no values, a value outside [0, 1], or lengths that differ.
    """
    values = _vector(shares)
    if values.min() < 0 or values.max() > 1:
        raise SawyerError("a proportion needs values between 0 and 1")
    sums, counts = cluster_sums(values, clusters)
    mean, n = float(values.mean()), len(sums)
    residuals = sums - mean * counts
    variance = float((residuals**2).sum()) / counts.sum() ** 2  # of a ratio of sums, linearised
    spread = mean * (1 - mean)
    # All alike at 0 or 1: the clusters are what we know of. Otherwise no more than one unit for each value.
    effective = float(n) if spread < 1e-12 else min(spread / max(variance, 1e-12), float(len(values)))
    low, high = _wilson(mean, effective, level)
    return Estimate(mean, low, high, n)


def wilson(successes: float, n: int, level: float = 0.95) -> Estimate:
    """A share of successes with its score interval (Wilson 1927). `successes` may be fractional: a tie is a half.

    Raises:
        SawyerError: n < 1, or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise SawyerError(f"a proportion of {successes} successes in {n} trials makes no sense")
    low, high = _wilson(successes / n, n, level)
    return Estimate(successes / n, low, high, n)


def minimum_detectable_difference(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that a two-sided test of `n` paired units finds with probability `power`.

    (z_{1 - alpha/2} + z_power) sd / sqrt(n), where `sd` is that of the paired differences (normal approximation).

    Raises:
        SawyerError: n < 1, a negative sd, or power or alpha outside (0, 1).
    """
    if n < 1 or sd < 0 or not 0 < power < 1 or not 0 < alpha < 1:
        raise SawyerError("a detectable difference needs n >= 1, sd >= 0, and power and alpha between 0 and 1")
    return float((special.ndtri(1 - alpha / 2) + special.ndtri(power)) * sd / math.sqrt(n))


def holm(p_values: ArrayLike) -> list[float]:
    """P values adjusted for having made several tests, in the order given (Holm 1979, step-down).

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection at alpha, whatever
    the dependence between the tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return []
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def cohens_d(differences: ArrayLike) -> float:
    """Cohen's d of paired differences: their mean over their standard deviation (d_z); NaN when they do not vary."""
    d = _vector(differences)
    if len(d) < 2:
        return math.nan
    sd = float(d.std(ddof=1))
    return float(d.mean()) / sd if sd > 1e-12 * np.abs(d).max() else math.nan


def cluster_sums(values: Vector, clusters: Sequence[object] | None) -> tuple[Vector, Vector]:
    """Sum and count of the values in each cluster: [G], [G]. Without clusters each value is its own."""
    if clusters is None:
        return values, np.ones_like(values)
    of_value = cluster_numbers(clusters, len(values))
    sums = np.bincount(of_value, weights=values).astype(np.float64)
    return sums, np.bincount(of_value).astype(np.float64)


def cluster_numbers(clusters: Sequence[object], n: int) -> NDArray[np.int64]:
    """[n] the number of each value's cluster, counted in the order in which they are met.

    Raises:
        SawyerError: not one label for each of n values.
    """
    if len(clusters) != n:
        raise SawyerError(f"{n} values were given {len(clusters)} cluster labels")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def resampled_means(sums: Vector, counts: Vector, draws: int, seed: int) -> Vector:
    """[draws] means, each of as many clusters as there are, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(sums)
    means = []
    for size in chunks(draws, n):
        drawn = rng.integers(0, n, (size, n))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(means)


def chunks(draws: int, width: int) -> list[int]:
    """`draws` cut into pieces of at most CHUNK / width."""
    most = max(1, CHUNK // width)
    return [min(most, draws - start) for start in range(0, draws, most)]


def _wilson(share: float, n: float, level: float) -> tuple[float, float]:
    z = float(special.ndtri(_tails(level)[1]))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise SawyerError(f"the level of an interval must lie between 0 and 1, not {level}")
    return (1 - level) / 2, (1 + level) / 2


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[Vector, Vector]:
    left, right = _vector(a), _vector(b)
    if len(left) != len(right):
        raise SawyerError(f"a paired comparison needs values in pairs, there are {len(left)} and {len(right)}")
    return left, right


def _vector(values: ArrayLike) -> Vector:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise SawyerError("statistics need a list with at least one number")
    if not np.isfinite(vector).all():
        raise SawyerError("statistics need finite numbers, there is a NaN or infinity among them")
    return vector
