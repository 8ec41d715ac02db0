"""What a reward model really looks at: length, who wrote the text, and what its favourites are worth.

Pure arithmetic beside `reward_models`: margins are reward(chosen) - reward(rejected), a margin of 0 is half right, and
every accuracy stands beside that of someone who sees lengths, or authors, and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json

Names = Sequence[object]


def by_length_difference(
    margins: ArrayLike, differences: ArrayLike, prompts: Names | None = None, *, bins: int = 8, level: float = 0.95
) -> list[dict[str, Any]]:
    """Accuracy where the chosen completion is much shorter, a little shorter, ..., much longer.

    Args:
        margins: [n] see above.
        differences: [n] length(chosen) - length(rejected).
        prompts: [n] the prompt of each pair, for the intervals.
        bins: at most so many groups of about equal size; equal differences share one.
        level: coverage of the intervals.

    Returns:
        for each group `{"low", "high", "n", "accuracy", "longer_wins"}`: the smallest and largest difference in it, and
        two figures `{"mean", "low", "high", "n"}`, of the model and of choosing the longer.

    Raises:
        SawyerError: no pairs, numbers that do not match, or no bins.
    """
    m, d = _columns(margins, differences)
    of_pair = equal_mass_bins(d, bins)
    groups = []
    for b in np.unique(of_pair):
        inside = of_pair == b
        names = _some(prompts, inside)
        groups.append(
            {
                "low": float(d[inside].min()),
                "high": float(d[inside].max()),
                "n": int(inside.sum()),
                "accuracy": as_json(stats.proportion(_right(m[inside]), names, level)),
                "longer_wins": as_json(stats.proportion(_right(d[inside]), names, level)),
            }
        )
    return groups


def by_source(
    margins: ArrayLike,
    chosen: Sequence[str],
    rejected: Sequence[str],
    differences: ArrayLike | None = None,
    prompts: Names | None = None,
    *,
    level: float = 0.95,
) -> dict[str, Any]:
    """Accuracy for each pair of authors, and what knowing the authors alone would score.

    Args:
        margins: [n] see above.
        chosen: [n] who wrote each chosen completion.
        rejected: [n] who wrote each rejected one.
        differences: [n] length(chosen) - length(rejected), for `longer_wins`.
        prompts: [n] the prompt of each pair.
        level: coverage of the intervals.

    Returns:
        `accuracy`, `source_only` (see below) and `longer_wins` as figures, and `pairs`, a list of
        `{"chosen", "rejected", "n", "accuracy", "source_only", "longer_wins"}`, the most frequent first.

    Raises:
        SawyerError: no pairs, or numbers that do not match.
    """
    m, d = _columns(margins, np.zeros(np.size(margins)) if differences is None else differences)
    if not len(chosen) == len(rejected) == len(m):
        raise SawyerError(f"there are {len(m)} margins but {len(chosen)} and {len(rejected)} authors")
    only = source_only(chosen, rejected, prompts)
    counts = Counter(zip(chosen, rejected, strict=True))
    number_of = {pair: number for number, pair in enumerate(counts)}
    authors = np.array([number_of[pair] for pair in zip(chosen, rejected, strict=True)])

    def figures(inside: np.ndarray) -> dict[str, Any]:
        names = _some(prompts, inside)
        found = {"accuracy": _right(m[inside]), "source_only": only[inside], "longer_wins": _right(d[inside])}
        if differences is None:
            del found["longer_wins"]
        return {name: as_json(stats.proportion(values, names, level)) for name, values in found.items()}

    pairs = [
        {"chosen": a, "rejected": b, "n": n, **figures(authors == number_of[a, b])} for (a, b), n in counts.items()
    ]
    return {**figures(np.full(len(m), True)), "pairs": sorted(pairs, key=lambda pair: -pair["n"])}


def source_only(chosen: Sequence[str], rejected: Sequence[str], prompts: Names | None = None) -> stats.Vector:
    """[n] 1 where naming the author who wins more often against the other, on all other prompts, is right.

    0.5 where the two wrote equally well elsewhere, never met elsewhere, or are one. Leaving the prompt itself out keeps
    an author who won once from being a sure winner.
    """
    names = list(range(len(chosen))) if prompts is None else list(prompts)
    wins: Counter[tuple[str, str]] = Counter(zip(chosen, rejected, strict=True))
    own: dict[object, Counter[tuple[str, str]]] = defaultdict(Counter)
    for name, a, b in zip(names, chosen, rejected, strict=True):
        own[name][a, b] += 1
    values = []
    for name, a, b in zip(names, chosen, rejected, strict=True):
        ahead = (wins[a, b] - own[name][a, b]) - (wins[b, a] - own[name][b, a])
        values.append(0.5 if a == b or ahead == 0 else float(ahead > 0))
    return np.array(values, dtype=np.float64)


def length_heat_map(
    rewards: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[float]],
    *,
    bins: int = 20,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """How far reward follows length among the completions of one prompt (Dong et al. 2024, figure 4).

    Args:
        rewards: [prompts][samples].
        lengths: [prompts][samples] in any unit.
        bins: of each axis.
        level, draws, seed: of the interval.

    Returns:
        `correlation`, the mean over prompts of Pearson's coefficient as a figure (None without any); `dropped`, prompts
        where it is not defined because all rewards or all lengths are equal; `points`, a pair of coefficient and mean
        length for each other prompt; and the histogram of these, `counts[length][correlation]`, with its
        `correlation_edges` and `length_edges`.

    Raises:
        SawyerError: numbers of rewards and lengths that differ, or one that is not finite.
    """
    points: list[tuple[float, float]] = []
    if len(rewards) != len(lengths):
        raise SawyerError(f"there are rewards of {len(rewards)} prompts but lengths of {len(lengths)}")
    for own_rewards, own_lengths in zip(rewards, lengths, strict=True):
        r, x = _columns(own_rewards, own_lengths)
        coefficient = pearson(r, x)
        if coefficient is not None:
            points.append((coefficient, float(x.mean())))
    edges = np.linspace(-1, 1, bins + 1)
    longest = max((length for _, length in points), default=1.0)
    length_edges = np.linspace(0, longest or 1.0, bins + 1)
    coefficients, means = ([point[i] for point in points] for i in (0, 1))
    counts = np.histogram2d(means, coefficients, bins=(length_edges, edges))[0]
    return {
        "prompts": len(rewards),
        "dropped": len(rewards) - len(points),
        "correlation": as_json(stats.bootstrap_mean(coefficients, None, level, draws, seed)) if points else None,
        "points": [list(point) for point in points],
        "correlation_edges": edges.tolist(),
        "length_edges": length_edges.tolist(),
        "counts": counts.astype(int).tolist(),
    }


def pearson(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's correlation coefficient; None where one of the two does not vary."""
    a, b = _columns(x, y)
    a, b = a - a.mean(), b - b.mean()
    # what is left of equal numbers after their mean is taken off is rounding
    if np.abs(a).max() <= 1e-12 * np.abs(x).max() or np.abs(b).max() <= 1e-12 * np.abs(y).max():
        return None
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1, 1))


def best_of_n(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """The gold reward of the completion that `proxy` likes best among n, expected over all choices of n of the N.

    With the N completions sorted by proxy, ascending: sum_i C(i - 1, n - 1) / C(N, n) gold_(i) (Nakano et al. 2021,
    appendix I). Completions the proxy cannot tell apart share their gold.

    Raises:
        SawyerError: n is not between 1 and N, numbers that do not match, or one that is not finite.
    """
    p, g = _columns(proxy, gold)
    if not 1 <= n <= len(p):
        raise SawyerError(f"best of {n} needs n between 1 and the number of completions, {len(p)}")
    _, of_completion = np.unique(p, return_inverse=True)
    shared = np.bincount(of_completion, weights=g) / np.bincount(of_completion)
    ascending = shared[np.sort(of_completion)]
    ways = math.comb(len(p), n)
    weights = [math.comb(i, n - 1) / ways for i in range(len(p))]
    return float(np.dot(weights, ascending))


def best_of_n_curve(
    proxies: Sequence[Sequence[float]],
    golds: Sequence[Sequence[float]],
    ns: Sequence[int],
    *,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each n, the gold reward of best-of-n over prompts, as a figure, and the KL it costs at most.

    KL(best of n || policy) <= log n - (n - 1) / n (Beirami et al. 2024).

    Returns:
        `[{"n", "kl_bound", "gold"}]`.

    Raises:
        SawyerError: as `best_of_n`.
    """
    curve = []
    for n in ns:
        values = [best_of_n(proxy, gold, n) for proxy, gold in zip(proxies, golds, strict=True)]
        gold = as_json(stats.bootstrap_mean(values, None, level, draws, seed))
        curve.append({"n": n, "kl_bound": math.log(n) - (n - 1) / n, "gold": gold})
    return curve


def equal_mass_bins(values: ArrayLike, bins: int) -> np.ndarray:
    """[n] a bin for each value, 0 the lowest: about equally many values in each, and equal values in the same.

    Raises:
        SawyerError: fewer than one bin.
    """
    if bins < 1:
        raise SawyerError(f"there must be at least one bin, not {bins}")
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    wanted = min(bins, len(ascending))
    edges = ascending[[-(-k * len(ascending) // wanted) for k in range(1, wanted)]]
    return np.searchsorted(np.unique(edges), values, side="right")


def _right(margins: stats.Vector) -> stats.Vector:
    return (margins > 0) + 0.5 * (margins == 0)


def _some(prompts: Names | None, inside: np.ndarray) -> list[object] | None:
    return None if prompts is None else [name for name, here in zip(prompts, inside, strict=True) if here]


def _columns(x: ArrayLike, y: ArrayLike) -> tuple[stats.Vector, stats.Vector]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise SawyerError(f"two lists of numbers of one length are needed, there are {a.size} and {b.size}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise SawyerError("finite numbers are needed, there is a NaN or infinity among them")
    return a, b
