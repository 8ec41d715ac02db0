"""What else moves a judge of two completions: their order, their length, who wrote them.

Pure arithmetic on verdicts. A verdict is how much the first completion, `a`, is preferred: 1, 0 for `b`, 0.5 for a tie,
NaN where there is none. People prefer longer answers too, often with reason, so a preference is measured against
another rater of the same items wherever there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json

Vector = NDArray[np.float64]
Prompts = Sequence[object] | None
A, B, TIE = "a", "b", "tie"
"""Verdicts as text, in any case."""


def verdicts(
    labels: Sequence[float | str | None], tie: float | None = None, prefers_a: str = "low"
) -> tuple[Vector, dict[str, int]]:
    """Labels as verdicts.

    Args:
        labels: [n] `A`, `B` or `tie`, or numbers; None is missing.
        tie: the number that is a tie, such as 5 on a scale of 1 to 9, or 1.5 where the labels are 1 and 2.
        prefers_a: which side of `tie` prefers a: `low`, as on the scale of 1 (the first is better) to 9, or `high`, as
            of probabilities that a beats b.

    Returns:
        [n] verdicts, and the labels that are none, with their counts.

    Raises:
        SawyerError: prefers_a is neither.
    """
    if prefers_a not in ("low", "high"):
        raise SawyerError(f"numbers that prefer a are low or high, not {prefers_a!r}")
    words = {A: 1.0, B: 0.0, TIE: 0.5}
    sign = 1 if prefers_a == "low" else -1
    found = np.full(len(labels), np.nan)
    unread: dict[str, int] = {}
    for i, label in enumerate(labels):
        if label is None:
            continue
        if isinstance(label, str):
            verdict = words.get(label.casefold())
        else:
            verdict = None if tie is None else (1 + float(np.sign(sign * (tie - label)))) / 2
        if verdict is None:
            unread[str(label)] = unread.get(str(label), 0) + 1
        else:
            found[i] = verdict
    return found, unread


def tie_rate(verdict: Vector, prompts: Prompts = None, level: float = 0.95) -> dict[str, Any]:
    """The share of ties among the verdicts, as a figure.

    Raises:
        SawyerError: no verdicts.
    """
    where = np.flatnonzero(np.isfinite(verdict))
    return as_json(stats.proportion(verdict[where] == 0.5, _some(prompts, where), level))


def position(
    verdict: Vector,
    swapped: Vector,
    prompts: Prompts = None,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """The swap test: the same two completions in both orders (Zheng et al. 2023, section 3.3).

    Args:
        verdict: [n] with a shown first.
        swapped: [n] with b shown first, as preference for what is shown first, that is b.
        prompts: [n] the prompt of each item.
        level, draws, seed: of the interval and the test.

    Returns:
        over the items judged in both orders, None without any: `consistent`, the share with the same winner, or a tie,
        in both; `first`, by how much more often (a tie is half) a completion wins when shown first than when shown
        second, a figure with `p_value`, 0 for a judge who does not look at the order; and `verdicts`, the number of
        items whose winner was `a` or `b` both times, the `first` or the `second` both times, a `tie` both times, or
        a tie `once`.
    """
    where = np.flatnonzero(np.isfinite(verdict) & np.isfinite(swapped))
    if not len(where):
        return None
    shown_first, shown_second = verdict[where], 1 - swapped[where]  # how much a is preferred
    names = _some(prompts, where)
    counts = {
        "a": (shown_first == 1) & (shown_second == 1),
        "b": (shown_first == 0) & (shown_second == 0),
        "first": (shown_first == 1) & (shown_second == 0),
        "second": (shown_first == 0) & (shown_second == 1),
        "tie": (shown_first == 0.5) & (shown_second == 0.5),
        "once": (shown_first == 0.5) != (shown_second == 0.5),
    }
    return {
        "items": len(where),
        "consistent": as_json(stats.proportion(shown_first == shown_second, names, level)),
        "first": difference(shown_first, shown_second, names, level, draws, seed),
        "verdicts": {name: int(inside.sum()) for name, inside in counts.items()},
    }


def preference(verdict: Vector, side: Vector, prompts: Prompts = None, level: float = 0.95) -> dict[str, Any] | None:
    """How often a side wins, a tie counting half: the longer of two, or the judge's own.

    Args:
        verdict: [n] see above.
        side: [n] 1 where a is of that side and b is not, -1 the other way round, 0 or NaN where there is no telling.

    Returns:
        a figure over the items with both, None without any.
    """
    chosen = _chosen(verdict, side)
    where = np.flatnonzero(np.isfinite(chosen))
    return as_json(stats.proportion(chosen[where], _some(prompts, where), level)) if len(where) else None


def preference_against(
    verdict: Vector,
    other: Vector,
    side: Vector,
    prompts: Prompts = None,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How much more a judge favours a side than another rater of the same items does.

    Args:
        verdict, other: [n] of the judge and of the other.
        side: [n] as in `preference`.

    Returns:
        over the items with all three, None without any: `more`, by how much more often that side wins with the judge, a
        figure with `p_value`; and `opportunity`, the share in which the judge agrees with the other where the other
        prefers that side, less the share where the other prefers the opposite (equal opportunity, as in Saito et al.
        2023 for length), None unless the other does both.
    """
    judge, rater = _chosen(verdict, side), _chosen(other, side)
    where = np.flatnonzero(np.isfinite(judge) & np.isfinite(rater))
    if not len(where):
        return None
    names = _some(prompts, where)
    judge, rater = judge[where], rater[where]
    # four counts: items, and agreement on them, where the other prefers that side, and where it prefers the opposite
    columns = [rater == 1, (rater == 1) * judge, rater == 0, (rater == 0) * (1 - judge)]
    counts = sparse.csr_array(np.stack(columns, 1).astype(np.float64))

    def measure(w_D4: Vector) -> dict[str, Vector]:
        defined = (w_D4[:, 0] > 0) & (w_D4[:, 2] > 0)
        shares = [np.divide(w_D4[:, i + 1], w_D4[:, i], out=np.full(len(w_D4), np.nan), where=defined) for i in (0, 2)]
        return {"opportunity": shares[0] - shares[1]}

    gap = stats.bootstrap_counts(measure, counts, names, level, draws, seed)["opportunity"]
    return {
        "more": difference(judge, rater, names, level, draws, seed),
        "opportunity": as_json(gap) if np.isfinite(gap.mean) else None,
    }


def longer(a: ArrayLike, b: ArrayLike) -> Vector:
    """[n] the side of the longer one, from two lists of lengths with NaN where one is not known."""
    return np.sign(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))


def own(model: str, a_models: Sequence[str | None], b_models: Sequence[str | None]) -> Vector:
    """[n] the side that `model` wrote; 0 where it wrote both, or neither, or an author is not known."""
    return np.array(
        [
            0.0 if first is None or second is None else float(first == model) - float(second == model)
            for first, second in zip(a_models, b_models, strict=True)
        ]
    )


def difference(a: Vector, b: Vector, prompts: Prompts, level: float, draws: int, seed: int) -> dict[str, Any]:
    """A paired difference as a figure with its `p_value`. Every prompt weighs the same."""
    found = stats.paired_difference(a, b, prompts, level, draws, seed)
    return as_json(found) | {"p_value": found.p_value}


def _chosen(verdict: Vector, side: Vector) -> Vector:
    """[n] how much that side is preferred; NaN where there is no verdict or no such side."""
    return np.where(side > 0, verdict, np.where(side < 0, 1 - verdict, np.nan))


def _some(prompts: Prompts, where: NDArray[np.int64]) -> list[object] | None:
    return None if prompts is None else [prompts[i] for i in where]
