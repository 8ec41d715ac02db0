"""Evaluations of several seeds of one recipe, as one: every figure a mean over seeds and prompts, with an interval that
covers both (`crossed`).

Pure arithmetic, like `policies`, whose evaluations and rows it takes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from sawyer.errors import SawyerError
from sawyer.evals import diversity, policies, stats
from sawyer.evals.crossed import CrossedMean, crossed_mean

Values = Mapping[Hashable, float]
"""By prompt."""

COMPARED = (*policies.COMPARED, "tokens")
"""What policies are compared by: rewards, and length."""
POINT = ("n", "kl")
"""What a point of a best-of-n curve is, besides what it reaches."""


def over_seeds(
    evaluations: Mapping[int, Mapping[str, Any]],
    rows: Mapping[int, Sequence[Mapping[str, Any]]],
    best_of_n: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    training: Mapping[int, Mapping[str, Mapping[str, float]]] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Every policy over seeds and prompts, and the comparisons that each seed made.

    Args:
        evaluations: by seed, what `policies.evaluate` gave.
        rows: by seed, the completions of all policies, each with its `policy` and `prompt`.
        best_of_n: by seed, rows `{"prompt_id", "prompt", "n", "kl", "gold"?, "proxy"?}`.
        training: by seed and policy, what its training took: `seconds`, `gold_labels`.
        level: coverage of the intervals.

    Returns:
        `{"seeds", "order", "baseline", "level", "prompts", "left_out", "policies": {name: figures}, "comparisons":
        [...], "headline", "best_of_n"?}`. A figure is `{"mean", "low", "high", "n", "seeds", "by_seed"}`; that of a
        comparison, a paired difference on the same prompts and seeds, has `p_value` and `p_holm` too.

    Raises:
        SawyerError: fewer than two seeds, or no prompt that every seed was evaluated on.
    """
    seeds = list(evaluations)
    first = evaluations[seeds[0]]
    order = [name for name in first["order"] if all(name in evaluations[seed]["order"] for seed in seeds)]
    found = {seed: _by_policy(rows[seed]) for seed in seeds}
    asked = [{_prompt(row) for row in rows[seed]} for seed in seeds]
    common = set.intersection(*asked)
    if not common:
        raise SawyerError(
            "the seeds were evaluated on different prompts, so there is nothing to average over: take the prompts from "
            "a stage `data`, which gives every seed the same"
        )
    figures = {
        name: {seed: {f: _only(v, common) for f, v in prompt_figures(found[seed][name]).items()} for seed in seeds}
        for name in order
    }
    result: dict[str, Any] = {
        "seeds": seeds,
        "order": order,
        "baseline": first["baseline"],
        "level": level,
        "prompts": len(common),
        "left_out": max(len(own) for own in asked) - len(common),
        "policies": {name: _figures(figures[name], level) | _training(training or {}, name) for name in order},
        "comparisons": [
            {name: one[name] for name in ("policy", "against", "roles")}
            | _compare(figures[one["policy"]], figures[one["against"]], level)
            for one in first["comparisons"]
            if {one["policy"], one["against"]} <= set(order)
        ],
    }
    for column in COMPARED:
        tested = [c[column] for c in result["comparisons"] if column in c and c[column]["p_value"] is not None]
        for difference, p in zip(tested, stats.holm([c["p_value"] for c in tested]), strict=True):
            difference["p_holm"] = p
    if best_of_n and all(best_of_n.get(seed) for seed in seeds):
        result["best_of_n"] = _curve(best_of_n, common, level)
    subjects = {evaluation["subject"] for evaluation in evaluations.values()}
    result["headline"] = headline(result, subjects.pop() if len(subjects) == 1 else order[-1])
    return result


def prompt_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[Hashable, float]]:
    """One policy's figures of each prompt, averaged over its samples; a figure that was not measured is absent."""
    values: dict[str, dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    texts: dict[Hashable, list[list[str]]] = defaultdict(list)
    for row in rows:
        prompt = _prompt(row)
        for column in (*policies.MEASURED, "finished"):
            if row.get(column) is not None and np.isfinite(row[column]):
                values[column][prompt].append(float(row[column]))
        said = diversity.words(row["text"])
        texts[prompt].append(said)
        if (repeated := diversity.repetition(said)) is not None:
            values["repetition"][prompt].append(repeated)
    for prompt, own in texts.items():
        for n in (1, 2):
            if (share := diversity.distinct(own, n)) is not None:
                values[f"distinct_{n}"][prompt].append(share)
    return {name: {prompt: float(np.mean(v)) for prompt, v in own.items()} for name, own in values.items()}


def headline(evaluation: Mapping[str, Any], subject: str) -> str:
    """The result in one sentence: the subject against the baseline, by gold reward where there is one."""
    baseline = evaluation["baseline"]
    comparison = policies.comparison_of(evaluation, subject)
    column = next((c for c in policies.COMPARED if comparison and c in comparison), None)
    if comparison is None or column is None:
        return f"{subject} was not compared with {baseline}."
    found = comparison[column]
    size = f"n = {found['n']} prompts, {policies.seeds(evaluation['seeds'])}"
    if found["low"] is None:
        return f"No difference shown between {subject} and {baseline}: a single prompt has no interval ({size})."
    interval = f"{evaluation['level']:.0%} interval {found['low']:+.2f} to {found['high']:+.2f}".replace("%", " %")
    said = f"{found['mean']:+.2f} {column} reward ({interval} over prompts and seeds, {size})."
    if found["low"] > 0 or found["high"] < 0:
        return f"{subject} {'beats' if found['mean'] > 0 else 'is worse than'} {baseline} by {said}"
    return f"No difference shown between {subject} and {baseline}: {said}"


def _by_policy(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["policy"]].append(row)
    return found


def _prompt(row: Mapping[str, Any]) -> Hashable:
    """What makes two prompts the same: place and text."""
    return json.dumps([row["prompt_id"], row["prompt"]], sort_keys=True)


def _only(values: Values, prompts: set[Hashable]) -> dict[Hashable, float]:
    return {prompt: value for prompt, value in values.items() if prompt in prompts}


def _table(by_seed: Sequence[Values]) -> np.ndarray:
    """`[S, P]` of the prompts that all seeds have, in one order; no column where there is none."""
    prompts = sorted(set.intersection(*(set(own) for own in by_seed)), key=str)
    return np.array([[own[prompt] for prompt in prompts] for own in by_seed])


def _figures(by_seed: Mapping[int, Mapping[str, Values]], level: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for own in by_seed.values() for name in own):
        table = _table([own.get(name, {}) for own in by_seed.values()])
        if table.size:
            found[name] = _as_json(crossed_mean(table, level), table)
    return found


def _compare(
    ours: Mapping[int, Mapping[str, Values]], theirs: Mapping[int, Mapping[str, Values]], level: float
) -> dict[str, Any]:
    """For each reward, and for length, the difference on the same prompt and seed."""
    compared = {}
    for column in COMPARED:
        differences = [
            {p: value - other[p] for p, value in own.items() if p in other}
            for own, other in ((ours[s].get(column, {}), theirs[s].get(column, {})) for s in ours)
        ]
        table = _table(differences)
        if table.size:
            found = crossed_mean(table, level)
            compared[column] = _as_json(found, table) | {"p_value": _or_none(found.p_value)}
    return compared


def _training(training: Mapping[int, Mapping[str, Mapping[str, float]]], name: str) -> dict[str, Any]:
    """What the training of a policy took, in the mean over seeds, as far as it is known of every seed."""
    told = [own.get(name, {}) for own in training.values()]
    shared = [key for key in (told[0] if told else ()) if all(key in own for own in told)]
    return {"training": {key: float(np.mean([own[key] for own in told])) for key in shared}} if shared else {}


def _curve(best_of_n: Mapping[int, Sequence[Mapping[str, Any]]], common: set[Hashable], level: float) -> list[dict]:
    """The points of best-of-n's curve, each reward over seeds and prompts."""
    points = []
    every = {(row["n"], row["kl"]) for own in best_of_n.values() for row in own}
    for n, kl in sorted(every):
        point: dict[str, Any] = dict(zip(POINT, (n, kl), strict=True))
        for column in policies.COMPARED:
            by_seed: list[dict[Hashable, float]] = [
                {_prompt(row): row[column] for row in own if row["n"] == n and row.get(column) is not None}
                for own in best_of_n.values()
            ]
            table = _table([_only(own, common) for own in by_seed])
            if table.size:
                point[column] = _as_json(crossed_mean(table, level), table)
        points.append(point)
    return points


def _as_json(found: CrossedMean, table: np.ndarray) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "low": _or_none(found.low),
        "high": _or_none(found.high),
        "n": found.n,
        "seeds": found.seeds,
        "by_seed": table.mean(1).tolist(),
    }


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
