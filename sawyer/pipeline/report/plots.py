"""The report's plots of policies and of their training, each a string of SVG to stand inside a page (`canvas`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sawyer.pipeline.report.canvas import BASELINE, GRID, RAMP, error_bars, new_figure, short, style, svg_of, value_or

COLUMNS = {"kl": "KL to the reference policy, nats", "tokens": "tokens"}
MOST_POINTS = 400
BINS = 28


def colours(order: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each policy: grey for the baseline, then along the ramp."""
    rest = [name for name in order if name != baseline]
    positions = np.linspace(0, len(RAMP) - 1, len(rest)) if len(rest) > 1 else np.array([1.0])
    return {baseline: BASELINE} | {name: _blend(at) for name, at in zip(rest, positions, strict=False)}


def reward_distributions(
    rows: Sequence[Mapping[str, Any]], column: str, palette: Mapping[str, str], name: str | None = None
) -> str | None:
    """A histogram of each policy's rewards, one above the other, with its mean; None without rewards.

    `name` tells several of one column on a page apart.
    """
    values = {one: _numbers(row.get(column) for row in rows if row.get("policy") == one) for one in palette}
    values = {one: found for one, found in values.items() if len(found)}
    if not values:
        return None
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    with style():
        figure, axes = new_figure(5.6, 0.9 + 0.52 * len(values))
        for level, (policy, found) in enumerate(reversed(values.items())):
            share = np.histogram(found, edges)[0] / len(found)
            height = 0.86 * share / max(share.max(), 1e-9)
            axes.stairs(level + height, edges, baseline=level, fill=True, color=palette[policy], alpha=0.32)
            axes.stairs(level + height, edges, baseline=level, color=palette[policy], linewidth=1.2)
            axes.plot([found.mean()] * 2, [level, level + 0.9], color=palette[policy], linewidth=2.4)
        axes.set_yticks([level + 0.3 for level in range(len(values))], [short(one) for one in reversed(values)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.05, len(values))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{column} reward (thick line: mean)")
        return svg_of(figure, f"dist-{name or column}", f"Distribution of {column} reward for each policy")


def over_workflow(evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str]) -> str | None:
    """The mean of a column along the workflow, with its interval as a band; None with fewer than two policies."""
    points = [(name, evaluation["policies"][name][column]) for name in palette if _has(evaluation, name, column)]
    if len(points) < 2:
        return None
    x = np.arange(len(points))
    mean, low, high = (np.array([value_or(p[end], p["mean"]) for _, p in points]) for end in ("mean", "low", "high"))
    with style():
        figure, axes = new_figure(5.6, 3.1)
        axes.fill_between(x, low, high, color=RAMP[1], alpha=0.16, linewidth=0)
        axes.axhline(mean[0], color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(x, mean, color=RAMP[1], linewidth=2)
        axes.vlines(x, low, high, color=[palette[name] for name, _ in points], linewidth=1.4)
        axes.scatter(x, mean, color=[palette[name] for name, _ in points], s=44, zorder=3)
        crowded = sum(len(short(name)) for name, _ in points) > 42
        axes.set_xticks(x, [short(name) for name, _ in points], rotation=30 if crowded else 0)
        if crowded:
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        axes.set_xlim(-0.3, len(points) - 0.7)
        axes.set_ylabel(f"{column} reward")
        told = f"Mean {column} reward of each policy along the workflow, with intervals"
        return svg_of(figure, f"over-{column}", told)


def kl_against(evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str]) -> str | None:
    """What each policy paid in KL for its reward; None unless two policies have both."""
    names = [name for name in palette if _has(evaluation, name, "kl") and _has(evaluation, name, column)]
    if len(names) < 2:
        return None
    with style():
        figure, axes = new_figure(5.6, 3.1)
        figures = [(evaluation["policies"][name]["kl"], evaluation["policies"][name][column]) for name in names]
        axes.plot([kl["mean"] for kl, _ in figures], [r["mean"] for _, r in figures], color=GRID, linewidth=1.5)
        for name, (kl, reward) in zip(names, figures, strict=True):
            axes.errorbar(
                kl["mean"],
                reward["mean"],
                error_bars(reward),
                error_bars(kl),
                fmt="o",
                color=palette[name],
                markersize=7,
                capsize=0,
            )
            axes.annotate(
                short(name), (kl["mean"], reward["mean"]), xytext=(7, 7), textcoords="offset points", fontsize=9
            )
        axes.margins(x=0.16, y=0.14)
        axes.set_xlabel("KL to the reference policy (nats per completion)")
        axes.set_ylabel(f"{column} reward")
        return svg_of(figure, f"kl-{column}", f"KL divergence against {column} reward for each policy")


def over_root_kl(
    evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str], name: str | None = None
) -> str | None:
    """Reward against the root of the KL (Gao et al. 2023): a line for best-of-n, a point for each policy.

    None where neither has both. `name` tells several of one column on a page apart.
    """
    points = [point for point in evaluation["best_of_n"]["points"] if column in point]
    names = [one for one in palette if _has(evaluation, one, "kl") and _has(evaluation, one, column)]
    if not points and not names:
        return None
    root = lambda kl: math.sqrt(max(kl, 0.0))  # an estimate from samples may lie below 0
    with style():
        figure, axes = new_figure(5.6, 3.3)
        if points:
            x, rewards = [root(point["kl"]) for point in points], [point[column] for point in points]
            ends = ("mean", "low", "high")
            mean, low, high = (np.array([value_or(r[end], r["mean"]) for r in rewards]) for end in ends)
            axes.fill_between(x, low, high, color=BASELINE, alpha=0.18, linewidth=0)
            axes.plot(x, mean, color=BASELINE, linewidth=1.8, marker="o", markersize=3)
            axes.annotate(f"best of {points[-1]['n']}", (x[-1], mean[-1]), xytext=(5, -3), textcoords="offset points",
                          fontsize=9)  # fmt: skip
        figures = [(root(evaluation["policies"][one]["kl"]["mean"]), evaluation["policies"][one][column])
                   for one in names]  # fmt: skip
        axes.plot([kl for kl, _ in figures], [r["mean"] for _, r in figures], color=GRID, linewidth=1.5)
        for one, (kl, reward) in zip(names, figures, strict=True):
            axes.errorbar(kl, reward["mean"], error_bars(reward), fmt="o", color=palette[one], markersize=7)
            axes.annotate(short(one), (kl, reward["mean"]), xytext=(7, 7), textcoords="offset points", fontsize=9)
        axes.margins(x=0.16, y=0.14)
        axes.set_xlabel("root of the KL to the reference policy")
        axes.set_ylabel(f"{column} reward")
        label = f"{column} reward against the root of the KL divergence, for each policy and for best-of-n"
        return svg_of(figure, f"root-kl-{name or column}", label)


def over_seeds(evaluation: Mapping[str, Any], name: str, column: str, palette: Mapping[str, str]) -> str | None:
    """Each policy's mean over seeds and prompts with its interval, and a small dot for each seed; None without any."""
    policies = [policy for policy in palette if _has(evaluation, policy, column)]
    if not policies:
        return None
    with style():
        figure, axes = new_figure(5.6, 1.0 + 0.34 * len(policies))
        for y, policy in enumerate(reversed(policies)):
            found = evaluation["policies"][policy][column]
            axes.errorbar(found["mean"], y, xerr=error_bars(found), fmt="o", color=palette[policy], markersize=7)
            axes.scatter(found["by_seed"], [y - 0.22] * len(found["by_seed"]), color=palette[policy], s=9, alpha=0.6)
        axes.set_yticks(range(len(policies)), [short(policy) for policy in reversed(policies)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(policies) - 0.4)
        axes.set_xlabel(COLUMNS.get(column, f"{column} reward") + " (small: each seed)")
        return svg_of(figure, f"seeds-{re.sub(r'[^a-zA-Z0-9]', '-', name)}-{column}",
                    f"Mean {column} of each policy over seeds and prompts, with intervals")  # fmt: skip


def loss_curve(name: str, metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """A stage's training loss, thin as logged and thick smoothed, and its validation loss; None without losses."""
    trained, validated = _series(metrics, "loss"), _series(metrics, "validation/loss")
    if not len(trained[0]) and not len(validated[0]):
        return None
    with style():
        figure, axes = new_figure(4.4, 2.7)
        if len(trained[0]):
            x, y = _thin(*trained)
            axes.plot(x, y, color=RAMP[0], linewidth=0.8, alpha=0.4)
            axes.plot(x, _smooth(y), color=RAMP[0], linewidth=2, label="training")
        if len(validated[0]):
            x, y = _thin(*validated)
            axes.plot(x, y, color=RAMP[4], linewidth=1.6, marker="o", markersize=4, label="validation")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend(loc="best")
        # a stage's name is the user's own, an id is not
        return svg_of(figure, "loss-" + re.sub(r"\W", "-", name), f"Loss of stage {name}")


def reward_curve(name: str, metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The reward of a policy that is trained by it, thin as logged and thick smoothed, and on held-out prompts; None
    without rewards."""
    trained, validated = _series(metrics, "reward"), _series(metrics, "validation_reward")
    if not len(trained[0]) or not len(validated[0]):
        return None
    with style():
        figure, axes = new_figure(4.4, 2.7)
        x, y = _thin(*trained)
        axes.plot(x, y, color=RAMP[0], linewidth=0.8, alpha=0.4)
        axes.plot(x, _smooth(y), color=RAMP[0], linewidth=2, label="training")
        x, y = _thin(*validated)
        axes.plot(x, y, color=RAMP[4], linewidth=1.6, marker="o", markersize=4, label="held out")
        axes.set_xlabel("step")
        axes.set_ylabel("reward")
        axes.legend(loc="best")
        return svg_of(figure, "reward-" + re.sub(r"\W", "-", name), f"Reward of stage {name}")


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a key. Where the step starts again (one loop after another) the rows are counted instead."""
    y = np.array([row[key] for row in metrics if _is_number(row.get(key))], dtype=float)
    steps = _numbers(row.get("step") for row in metrics if _is_number(row.get(key)))
    rising = len(steps) == len(y) and bool((np.diff(steps) >= 0).all())
    return (steps if rising else np.arange(1.0, len(y) + 1)), y


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points, each the mean of its neighbours."""
    pieces = min(MOST_POINTS, len(x))
    parts = zip(np.array_split(x, pieces), np.array_split(y, pieces), strict=True)
    thinned = np.array([(a.mean(), b.mean()) for a, b in parts])
    return thinned[:, 0], thinned[:, 1]


def _smooth(y: np.ndarray) -> np.ndarray:
    """A centred running mean over about a twelfth of the curve."""
    half = len(y) // 24
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def _blend(position: float) -> str:
    """The ramp's colour at a position between 0 and len(RAMP) - 1."""
    below = min(int(position), len(RAMP) - 2)
    a, b = (np.array([int(RAMP[below + i][j : j + 2], 16) for j in (1, 3, 5)]) for i in (0, 1))
    mixed = a + (b - a) * (position - below)
    return "#" + "".join(f"{round(float(channel)):02x}" for channel in mixed)


def _has(evaluation: Mapping[str, Any], name: str, column: str) -> bool:
    return column in evaluation["policies"].get(name, {})


def _numbers(values: Any) -> np.ndarray:
    return np.array([float(value) for value in values if _is_number(value)])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
