"""From the completions of several policies on the same prompts to a comparison one can trust.

Pure arithmetic: rows in, a JSON-able dictionary out. A row is one completion,

    {"prompt_id": int, "sample": int, "text": str, "tokens": int, "finished": bool,
     "gold": float | None, "proxy": float | None, "kl": float | None, "entropy": float | None}

where `gold` is the reward that is computed or held out, `proxy` the one the policy was trained on, and `kl` the sum
over the completion's tokens of log pi(y) - log pi_ref(y) on the policy's own sample, in nats: of samples of pi itself
(temperature 1, nothing filtered or penalised) an unbiased (k1) estimate of KL(pi || pi_ref), of others a mean
log-ratio; `entropy` is the mean entropy of the policy's distributions along it, in nats. A missing or NaN number is
left out, never counted as zero.
The order of the rows changes nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sawyer.errors import SawyerError
from sawyer.evals import diversity, stats

Row = Mapping[str, Any]

COMPARED = ("gold", "proxy")
"""What policies are compared by, the one that counts first."""
MEASURED = ("gold", "proxy", "kl", "entropy", "tokens")
"""Numbers of a row whose mean is reported."""
Values = Mapping[Any, np.ndarray]
"""By prompt, the values of its samples."""
EQUALLY_LONG = 0.1, 2
"""Share of the longer, and words: texts that differ by no more than the larger of these count as equally long."""


def evaluate(
    rows_by_policy: Mapping[str, Sequence[Row]],
    baseline: str,
    *,
    order: Sequence[str] | None = None,
    subject: str | None = None,
    training_seeds: Sequence[int] = (),
    previous: bool = True,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every policy by itself, against the baseline and, unless told otherwise, against the policy before it.

    Intervals are over prompts: a cluster bootstrap for means, the clustered Wilson interval for shares. A comparison
    takes the prompts both policies have, averages each policy's samples of a prompt, and tests the paired differences.
    Its win rate counts, for each prompt, all pairs of the two policies' samples, ties half. `p_holm` is corrected for
    all comparisons made by that reward.

    Args:
        rows_by_policy: each policy's completions.
        baseline: the policy all others are compared with.
        order: the policies in the order of the workflow; as given when left out.
        subject: the policy the headline is about, chosen on other data than these; the last when left out.
        training_seeds: those of the runs that trained the policies, to be stated with the result; none if not known.
        previous: whether each is compared with the one before it.
        level: coverage of the intervals.
        draws: bootstrap resamples and random sign flips.
        seed: of both; the completions have one of their own.

    Returns:
        `{"order", "baseline", "subject", "training_seeds", "level", "draws", "seed", "policies": {name: figures},
        "comparisons": [...]}`.
        Every figure is `{"mean", "low", "high", "n"}` with n the number of prompts; a bound is None where one prompt
        alone gives no interval. A figure nothing was measured for is absent.

    Raises:
        SawyerError: an unknown baseline, subject or order, or a policy without completions.
    """
    order = list(rows_by_policy) if order is None else list(order)
    subject = order[-1] if subject is None and order else subject
    if sorted(order) != sorted(rows_by_policy):
        raise SawyerError(f"the order names {', '.join(order)} but there are {', '.join(rows_by_policy)}")
    for name in (baseline, subject):
        if name not in rows_by_policy:
            raise SawyerError(
                f"there is no policy {name!r} to compare with, only {', '.join(rows_by_policy) or 'none'}"
            )
    for name, rows in rows_by_policy.items():
        if not rows:
            raise SawyerError(f"policy {name!r} has no completions to evaluate")
    rows_of = {
        name: sorted(rows, key=lambda row: (row["prompt_id"], row["sample"])) for name, rows in rows_by_policy.items()
    }

    policies = {name: figures_of(rows_of[name], level, draws, seed) for name in order}
    comparisons = [
        {"policy": policy, "against": other, "roles": roles}
        | _compare(rows_of[policy], rows_of[other], level, draws, seed)
        for policy, other, roles in _whom_with_whom(order, baseline, previous)
    ]
    for column in COMPARED:
        tested = [comparison[column] for comparison in comparisons if column in comparison]
        for comparison, p in zip(tested, stats.holm([c["p_value"] for c in tested]), strict=True):
            comparison["p_holm"] = p
    return {
        "order": order,
        "baseline": baseline,
        "subject": subject,
        "training_seeds": list(training_seeds),
        "level": level,
        "draws": draws,
        "seed": seed,
        "policies": policies,
        "comparisons": comparisons,
    }


def seeds(numbers: Sequence[int]) -> str:
    """`one seed (0)`, `3 seeds (0, 1, 2)`."""
    count = "one seed" if len(numbers) == 1 else f"{len(numbers)} seeds"
    return f"{count} ({', '.join(map(str, numbers))})"


def comparison_of(evaluation: Mapping[str, Any], policy: str, against: str | None = None) -> dict[str, Any] | None:
    """The comparison of `policy` with another (the baseline when left out), or None when it was not made."""
    against = evaluation["baseline"] if against is None else against
    return next((c for c in evaluation["comparisons"] if (c["policy"], c["against"]) == (policy, against)), None)


def headline(evaluation: Mapping[str, Any]) -> str:
    """The result in one honest sentence: the subject against the baseline, by gold reward where there is one."""
    subject, baseline = evaluation["subject"], evaluation["baseline"]
    comparison = comparison_of(evaluation, subject)
    column = next((c for c in COMPARED if comparison and c in comparison), None)
    if comparison is None or column is None:
        why = "it is the baseline itself" if subject == baseline else "no reward was measured on prompts both answered"
        return f"{subject} was not compared with {baseline}: {why}."
    difference = comparison[column]
    by = f"{difference['mean']:+.2f}"
    if difference["low"] is None:
        return f"No difference shown between {subject} and {baseline}: a single prompt ({by} {column}) has no interval."
    interval = f"{evaluation['level']:.0%} interval {_span(difference)}".replace("%", " %")
    trained = evaluation["training_seeds"]
    size = f"n = {difference['n']} prompts{_samples(evaluation['policies'], (subject, baseline))}"
    size += f", {seeds(trained)}" if trained else ""
    if difference["low"] > 0 or difference["high"] < 0:
        verb = "beats" if difference["mean"] > 0 else "is worse than"
        return f"{subject} {verb} {baseline} by {by} {column} reward ({interval}, {size})."
    seen = difference["detectable"]
    could = f"; a true difference of {seen:.2f} would have been found four times in five" if seen else ""
    return f"No difference shown between {subject} and {baseline}: {by} {column} reward ({interval}, {size}){could}."


def figures_of(rows: Sequence[Row], level: float, draws: int, seed: int) -> dict[str, Any]:
    """What one policy does, each figure with its interval over prompts. The rows stand in the order of the prompts."""
    figures: dict[str, Any] = {"prompts": len({row["prompt_id"] for row in rows}), "completions": len(rows)}
    for column in MEASURED:
        kept = [(row["prompt_id"], float(row[column])) for row in rows if _is_number(row.get(column))]
        if kept:
            prompts, values = zip(*kept, strict=True)
            figures[column] = as_json(stats.bootstrap_mean(values, prompts, level, draws, seed))
    ended = [(row["prompt_id"], float(row["finished"])) for row in rows if row.get("finished") is not None]
    if ended:
        prompts, values = zip(*ended, strict=True)
        figures["finished"] = as_json(stats.proportion(values, prompts, level))
    texts: dict[Any, list[list[str]]] = defaultdict(list)
    for row in rows:
        texts[row["prompt_id"]].append(diversity.words(row["text"]))
    of_prompts = {
        "distinct_1": [diversity.distinct(own, 1) for own in texts.values()],
        "distinct_2": [diversity.distinct(own, 2) for own in texts.values()],
        "self_bleu": [diversity.self_bleu(own) for own in texts.values()],
    }
    for name, shares in of_prompts.items():
        if defined := [share for share in shares if share is not None]:
            figures[name] = as_json(stats.bootstrap_mean(defined, None, level, draws, seed))
    repeated = [(p, r) for p, own in texts.items() for text in own if (r := diversity.repetition(text)) is not None]
    if repeated:
        prompts, values = zip(*repeated, strict=True)
        figures["repetition"] = as_json(stats.bootstrap_mean(values, prompts, level, draws, seed))
    return figures


def _whom_with_whom(order: Sequence[str], baseline: str, previous: bool) -> list[tuple[str, str, list[str]]]:
    """(policy, other, what the other is to it), each pair once."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for i, policy in enumerate(order):
        if policy != baseline:
            pairs.setdefault((policy, baseline), []).append("baseline")
            if i > 0 and previous:
                pairs.setdefault((policy, order[i - 1]), []).append("previous")
    return [(policy, other, roles) for (policy, other), roles in pairs.items()]


def _compare(rows: Sequence[Row], other: Sequence[Row], level: float, draws: int, seed: int) -> dict[str, Any]:
    """For gold and proxy what `difference` says. Absent without prompts in common."""
    compared: dict[str, Any] = {}
    for column in COMPARED:
        ours, theirs = by_prompt(rows, column), by_prompt(other, column)
        if any(prompt in theirs for prompt in ours):
            compared[column] = difference(ours, theirs, level, draws, seed)
            compared[column]["length_matched"] = length_matched(rows, other, column, level, draws, seed)
    return compared


def difference(ours: Values, theirs: Values, level: float, draws: int, seed: int) -> dict[str, Any]:
    """The paired difference of the prompts both have, each policy's samples of a prompt averaged, with its test, effect
    sizes and win rate.

    `effect_size` is Cohen's d of the paired differences, `cliffs_delta` (Cliff 1993) the share of pairs of samples of
    a prompt that the first wins, less the share that it loses.

    Args:
        ours, theirs: by prompt, the values of its samples.
    """
    prompts = [prompt for prompt in ours if prompt in theirs]
    means = [(ours[p].mean(), theirs[p].mean()) for p in prompts]
    a, b = (np.array(side) for side in zip(*means, strict=True))
    found = stats.paired_difference(a, b, level=level, draws=draws, seed=seed)
    won = stats.proportion([share_of_wins(ours[p], theirs[p]) for p in prompts], level=level)
    return as_json(found) | {
        "p_value": found.p_value,
        "effect_size": _or_none(found.effect_size),
        "cliffs_delta": {"mean": 2 * won.mean - 1, "low": 2 * won.low - 1, "high": 2 * won.high - 1, "n": won.n},
        "sd": _or_none(found.sd),
        "detectable": _detectable(found),
        "win_rate": as_json(won),
    }


def length_matched(
    rows: Sequence[Row], other: Sequence[Row], column: str, level: float, draws: int, seed: int
) -> dict[str, Any] | None:
    """The difference of answers that are equally long: of each prompt, over the pairs of a sample of one policy and one
    of the other whose numbers of words differ by at most a tenth of the longer, or by two words.

    Prompts without such a pair are left out, so `n` says how many had one; None where none had. Where a policy writes
    longer throughout, few are left, and what they say is about those.
    """
    told = [_with_lengths(own, column) for own in (rows, other)]
    matched = []
    for prompt in (prompt for prompt in told[0] if prompt in told[1]):
        (values_a, words_a), (values_b, words_b) = told[0][prompt], told[1][prompt]
        apart, longer = np.abs(words_a[:, None] - words_b), np.maximum(words_a[:, None], words_b)
        pairs = apart <= np.maximum(EQUALLY_LONG[0] * longer, EQUALLY_LONG[1])
        if pairs.any():
            matched.append(float((values_a[:, None] - values_b)[pairs].mean()))
    return as_json(stats.bootstrap_mean(matched, None, level, draws, seed)) if matched else None


def _with_lengths(rows: Sequence[Row], column: str) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """By prompt, the values of its samples and their numbers of words."""
    told: dict[Any, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        if _is_number(row.get(column)):
            told[row["prompt_id"]].append((float(row[column]), len(diversity.words(row["text"]))))
    return {
        prompt: (np.array([value for value, _ in own]), np.array([count for _, count in own]))
        for prompt, own in told.items()
    }


def by_prompt(rows: Sequence[Row], column: str) -> dict[Any, np.ndarray]:
    """By prompt, the values that its samples have in a column; what was not measured is left out."""
    values: dict[Any, list[float]] = defaultdict(list)
    for row in rows:
        if _is_number(row.get(column)):
            values[row["prompt_id"]].append(float(row[column]))
    return {prompt: np.array(of_prompt) for prompt, of_prompt in values.items()}


def share_of_wins(a: np.ndarray, b: np.ndarray) -> float:
    """The share of pairs (i, j) with a_i > b_j, ties half (Mann & Whitney 1947)."""
    difference = a[:, None] - b[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def _detectable(difference: stats.Difference) -> float | None:
    return None if math.isnan(difference.sd) else stats.minimum_detectable_difference(difference.sd, difference.n)


def as_json(estimate: stats.Estimate) -> dict[str, Any]:
    """An estimate as a JSON object; a bound that does not exist is None."""
    return {
        "mean": estimate.mean,
        "low": _or_none(estimate.low),
        "high": _or_none(estimate.high),
        "n": estimate.n,
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _span(figure: Mapping[str, Any]) -> str:
    return f"{figure['low']:+.2f} to {figure['high']:+.2f}"


def _samples(policies: Mapping[str, Any], names: Sequence[str]) -> str:
    """ " x 2 samples" where both policies answered every prompt equally often, else nothing."""
    each = {policies[name]["completions"] / policies[name]["prompts"] for name in names}
    if len(each) != 1 or not (count := each.pop()).is_integer():
        return ""
    return f" x {count:.0f} sample{'s' if count > 1 else ''}"
