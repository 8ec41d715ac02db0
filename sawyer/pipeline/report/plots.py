"""The report's plots, each a string of SVG to stand inside a page.

They carry no date and no random names, so the same numbers give the same bytes. Text stays text, and text, axes and
grid take their colour from the page (`currentColor`, `--grid`), so the plots follow a dark page.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#123456", "#654321"
"""Stand-ins that become the page's own colours."""
BASELINE = "#7d8799"
RAMP = ("#0b9bd7", "#5b6cf0", "#9b51e0", "#d6409f", "#ef6c3a")
"""From the first policy after the baseline to the last: the colour says how far along the workflow it is."""
COLUMNS = {"kl": "KL to the reference policy, nats", "tokens": "tokens"}
MOST_POINTS = 400
BINS = 28


def colours(order: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each policy: grey for the baseline, then along the ramp."""
    rest = [name for name in order if name != baseline]
    positions = np.linspace(0, len(RAMP) - 1, len(rest)) if len(rest) > 1 else np.array([1.0])
    return {baseline: BASELINE} | {name: _blend(at) for name, at in zip(rest, positions, strict=False)}


def reward_distributions(rows: Sequence[Mapping[str, Any]], column: str, palette: Mapping[str, str]) -> str | None:
    """A histogram of each policy's rewards, one above the other, with its mean; None without rewards."""
    values = {name: _numbers(row.get(column) for row in rows if row.get("policy") == name) for name in palette}
    values = {name: found for name, found in values.items() if len(found)}
    if not values:
        return None
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    with _style():
        figure, axes = _figure(5.6, 0.9 + 0.52 * len(values))
        for level, (name, found) in enumerate(reversed(values.items())):
            share = np.histogram(found, edges)[0] / len(found)
            height = 0.86 * share / max(share.max(), 1e-9)
            axes.stairs(level + height, edges, baseline=level, fill=True, color=palette[name], alpha=0.32)
            axes.stairs(level + height, edges, baseline=level, color=palette[name], linewidth=1.2)
            axes.plot([found.mean()] * 2, [level, level + 0.9], color=palette[name], linewidth=2.4)
        axes.set_yticks([level + 0.3 for level in range(len(values))], [_short(name) for name in reversed(values)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.05, len(values))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{column} reward (thick line: mean)")
        return _svg(figure, f"dist-{column}", f"Distribution of {column} reward for each policy")


def over_workflow(evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str]) -> str | None:
    """The mean of a column along the workflow, with its interval as a band; None with fewer than two policies."""
    points = [(name, evaluation["policies"][name][column]) for name in palette if _has(evaluation, name, column)]
    if len(points) < 2:
        return None
    x = np.arange(len(points))
    mean, low, high = (np.array([_or(p[end], p["mean"]) for _, p in points]) for end in ("mean", "low", "high"))
    with _style():
        figure, axes = _figure(5.6, 3.1)
        axes.fill_between(x, low, high, color=RAMP[1], alpha=0.16, linewidth=0)
        axes.axhline(mean[0], color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(x, mean, color=RAMP[1], linewidth=2)
        axes.vlines(x, low, high, color=[palette[name] for name, _ in points], linewidth=1.4)
        axes.scatter(x, mean, color=[palette[name] for name, _ in points], s=44, zorder=3)
        crowded = sum(len(_short(name)) for name, _ in points) > 42
        axes.set_xticks(x, [_short(name) for name, _ in points], rotation=30 if crowded else 0)
        if crowded:
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        axes.set_xlim(-0.3, len(points) - 0.7)
        axes.set_ylabel(f"{column} reward")
        return _svg(figure, f"over-{column}", f"Mean {column} reward of each policy along the workflow, with intervals")


def kl_against(evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str]) -> str | None:
    """What each policy paid in KL for its reward; None unless two policies have both."""
    names = [name for name in palette if _has(evaluation, name, "kl") and _has(evaluation, name, column)]
    if len(names) < 2:
        return None
    with _style():
        figure, axes = _figure(5.6, 3.1)
        figures = [(evaluation["policies"][name]["kl"], evaluation["policies"][name][column]) for name in names]
        axes.plot([kl["mean"] for kl, _ in figures], [r["mean"] for _, r in figures], color=GRID, linewidth=1.5)
        for name, (kl, reward) in zip(names, figures, strict=True):
            axes.errorbar(
                kl["mean"],
                reward["mean"],
                _bars(reward),
                _bars(kl),
                fmt="o",
                color=palette[name],
                markersize=7,
                capsize=0,
            )
            axes.annotate(
                _short(name), (kl["mean"], reward["mean"]), xytext=(7, 7), textcoords="offset points", fontsize=9
            )
        axes.margins(x=0.16, y=0.14)
        axes.set_xlabel("KL to the reference policy (nats per completion)")
        axes.set_ylabel(f"{column} reward")
        return _svg(figure, f"kl-{column}", f"KL divergence against {column} reward for each policy")


def over_root_kl(evaluation: Mapping[str, Any], column: str, palette: Mapping[str, str]) -> str | None:
    """Reward against the root of the KL (Gao et al. 2023): a line for best-of-n, a point for each policy.

    None where neither has both.
    """
    points = [point for point in evaluation["best_of_n"]["points"] if column in point]
    names = [name for name in palette if _has(evaluation, name, "kl") and _has(evaluation, name, column)]
    if not points and not names:
        return None
    root = lambda kl: math.sqrt(max(kl, 0.0))  # an estimate from samples may lie below 0
    with _style():
        figure, axes = _figure(5.6, 3.3)
        if points:
            x, rewards = [root(point["kl"]) for point in points], [point[column] for point in points]
            mean, low, high = (np.array([_or(r[end], r["mean"]) for r in rewards]) for end in ("mean", "low", "high"))
            axes.fill_between(x, low, high, color=BASELINE, alpha=0.18, linewidth=0)
            axes.plot(x, mean, color=BASELINE, linewidth=1.8, marker="o", markersize=3)
            axes.annotate(f"best of {points[-1]['n']}", (x[-1], mean[-1]), xytext=(5, -3), textcoords="offset points",
                          fontsize=9)  # fmt: skip
        figures = [(root(evaluation["policies"][name]["kl"]["mean"]), evaluation["policies"][name][column])
                   for name in names]  # fmt: skip
        axes.plot([kl for kl, _ in figures], [r["mean"] for _, r in figures], color=GRID, linewidth=1.5)
        for name, (kl, reward) in zip(names, figures, strict=True):
            axes.errorbar(kl, reward["mean"], _bars(reward), fmt="o", color=palette[name], markersize=7)
            axes.annotate(_short(name), (kl, reward["mean"]), xytext=(7, 7), textcoords="offset points", fontsize=9)
        axes.margins(x=0.16, y=0.14)
        axes.set_xlabel("root of the KL to the reference policy")
        axes.set_ylabel(f"{column} reward")
        label = f"{column} reward against the root of the KL divergence, for each policy and for best-of-n"
        return _svg(figure, f"root-kl-{column}", label)


def over_seeds(evaluation: Mapping[str, Any], name: str, column: str, palette: Mapping[str, str]) -> str | None:
    """Each policy's mean over seeds and prompts with its interval, and a small dot for each seed; None without any."""
    policies = [policy for policy in palette if _has(evaluation, policy, column)]
    if not policies:
        return None
    with _style():
        figure, axes = _figure(5.6, 1.0 + 0.34 * len(policies))
        for y, policy in enumerate(reversed(policies)):
            found = evaluation["policies"][policy][column]
            axes.errorbar(found["mean"], y, xerr=_bars(found), fmt="o", color=palette[policy], markersize=7)
            axes.scatter(found["by_seed"], [y - 0.22] * len(found["by_seed"]), color=palette[policy], s=9, alpha=0.6)
        axes.set_yticks(range(len(policies)), [_short(policy) for policy in reversed(policies)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(policies) - 0.4)
        axes.set_xlabel(COLUMNS.get(column, f"{column} reward") + " (small: each seed)")
        return _svg(figure, f"seeds-{re.sub(r'[^a-zA-Z0-9]', '-', name)}-{column}",
                    f"Mean {column} of each policy over seeds and prompts, with intervals")  # fmt: skip


def loss_curve(name: str, metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """A stage's training loss, thin as logged and thick smoothed, and its validation loss; None without losses."""
    trained, validated = _series(metrics, "loss"), _series(metrics, "validation/loss")
    if not len(trained[0]) and not len(validated[0]):
        return None
    with _style():
        figure, axes = _figure(4.4, 2.7)
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
        return _svg(figure, "loss-" + re.sub(r"\W", "-", name), f"Loss of stage {name}")


def reward_curve(name: str, metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The reward of a policy that is trained by it, thin as logged and thick smoothed, and on held-out prompts; None
    without rewards."""
    trained, validated = _series(metrics, "reward"), _series(metrics, "validation_reward")
    if not len(trained[0]) or not len(validated[0]):
        return None
    with _style():
        figure, axes = _figure(4.4, 2.7)
        x, y = _thin(*trained)
        axes.plot(x, y, color=RAMP[0], linewidth=0.8, alpha=0.4)
        axes.plot(x, _smooth(y), color=RAMP[0], linewidth=2, label="training")
        x, y = _thin(*validated)
        axes.plot(x, y, color=RAMP[4], linewidth=1.6, marker="o", markersize=4, label="held out")
        axes.set_xlabel("step")
        axes.set_ylabel("reward")
        axes.legend(loc="best")
        return _svg(figure, "reward-" + re.sub(r"\W", "-", name), f"Reward of stage {name}")


def reliability(evaluation: Mapping[str, Any], name: str, label: str | None = None) -> str | None:
    """How often the reward model is right when it is this sure, before and after temperature scaling."""
    calibration = evaluation["calibration"]
    before, after = calibration.get("reliability") or [], calibration.get("reliability_after") or []
    if not any(bin["n"] for bin in before):
        return None
    with _style():
        figure, axes = _figure(5.6, 3.5)
        axes.plot([0.5, 1], [0.5, 1], color=BASELINE, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
        total = sum(bin["n"] for bin in before)
        for bin in before:
            width = bin["high"] - bin["low"]
            axes.bar(bin["low"], 0.3 * bin["n"] / total, width, align="edge", color=GRID, linewidth=0)
        labels = ("as trained", f"divided by T = {calibration['temperature']:.2f}" if after else "")
        for diagram, colour, name_of_line in zip((before, after), (RAMP[0], RAMP[4]), labels, strict=True):
            filled = [bin for bin in diagram if bin["n"]]
            if filled:
                x, y = ([bin[key] for bin in filled] for key in ("confidence", "accuracy"))
                axes.plot(x, y, marker="o", markersize=5, color=colour, linewidth=1.8, label=name_of_line)
        axes.set_xlim(0.49, 1.01)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("confidence, sigmoid(|margin|)  (bars: share of pairs)")
        axes.set_ylabel("pairs ranked right")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, borderpad=0.2)
        label = label or f"Calibration of the reward model of stage {name}"
        return _svg(figure, "reliability-" + re.sub(r"\W", "-", name), label)


def length_heat_map(heat_map: Mapping[str, Any]) -> str | None:
    """How many prompts have which correlation of reward and length, at which mean length; None without any."""
    if not heat_map["points"]:
        return None
    counts = np.array(heat_map["counts"], dtype=float)
    with _style():
        figure, axes = _figure(5.6, 3.5)
        x, y = heat_map["correlation_edges"], heat_map["length_edges"]
        for row, (low, high) in enumerate(pairwise(y)):
            for column in np.flatnonzero(counts[row]):
                share = counts[row, column] / counts.max()
                axes.fill_between(
                    x[column : column + 2], low, high, color=RAMP[1], alpha=0.15 + 0.85 * share, linewidth=0
                )
        axes.axvline(0, color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvline(heat_map["correlation"]["mean"], color=RAMP[4], linewidth=1.8)
        axes.set_xlim(-1, 1)
        axes.set_ylim(0, y[-1])
        axes.set_xlabel("correlation of reward and length within a prompt (line: mean)")
        axes.set_ylabel("mean length")
        return _svg(figure, "length-heat-map", "Correlation of reward and length, by mean length")


def agreement_heat_map(raters: Sequence[str], values: Mapping[tuple[str, str], float | None], measure: str) -> str:
    """A measure of agreement for every two raters, as number and colour; a measure that is not defined is a dash."""
    n = len(raters)
    with _style():
        figure, axes = _figure(1.8 + 0.62 * n, 1.1 + 0.5 * n)
        for (a, b), value in values.items():
            for row, column in ((raters.index(a), raters.index(b)), (raters.index(b), raters.index(a))):
                if value is not None:
                    shade = 0.1 + 0.6 * min(abs(value), 1)
                    colour = RAMP[1] if value >= 0 else RAMP[4]
                    axes.fill_between([column, column + 1], row, row + 1, color=colour, alpha=shade, linewidth=0)
                text = "–" if value is None else f"{value:.2f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9, color=INK)
        middles = [at + 0.5 for at in range(n)]
        axes.set_xticks(middles, [_short(name) for name in raters], rotation=30, ha="right")
        axes.set_yticks(middles, [_short(name) for name in raters])
        axes.tick_params(length=0)
        axes.set_xlim(0, n)
        axes.set_ylim(n, 0)
        axes.grid(visible=False)
        axes.set_title(measure, fontsize=10, color=INK)
        return _svg(figure, "agreement", f"Agreement of every two raters: {measure}")


def calibration_curve(points: Sequence[Mapping[str, Any]], x: str, y: str, number: int = 0) -> str:
    """What rater `y` says on average where rater `x` says this, and what the fitted monotone map says.

    Args:
        points: see `evals.monotone.curve`.
        number: of the curve on its page.
    """
    with _style():
        figure, axes = _figure(4.4, 3.3)
        label, calibrated = ([point[key] for point in points] for key in ("label", "calibrated"))
        mean = [point["mean"]["mean"] for point in points]
        ends = [min(*label, *mean), max(*label, *mean)] if len(points) > 1 else [label[0] - 1, label[0] + 1]
        axes.plot(ends, ends, color=BASELINE, linewidth=1, linestyle=(0, (4, 3)), label="equal labels")
        bars = np.maximum(np.hstack([_bars(point["mean"]) for point in points]), 0)  # less than 0 by rounding
        axes.errorbar(label, mean, bars, fmt="o", color=RAMP[0], markersize=5, capsize=0, label="mean label")
        axes.plot(label, calibrated, color=RAMP[4], linewidth=1.8, label="calibrated")
        axes.set_xlabel(_short(x))
        axes.set_ylabel(_short(y))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, borderpad=0.2)
        return _svg(figure, f"calibration-{number}", f"Labels of {y} where {x} gives each label")


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "sawyer",
            "text.parse_math": False,  # names are text, also where they hold a dollar sign
            "font.family": "sans-serif",
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": GRID,
            "axes.linewidth": 1,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.7,
            "xtick.color": GRID,
            "ytick.color": GRID,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
            "legend.fontsize": 9,
        }
    )


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element that scales with the page, with ids of its own and the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    return svg.replace(INK, "currentColor").replace(GRID, "var(--grid)")


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


def _bars(figure: Mapping[str, Any]) -> list[list[float]]:
    mean = figure["mean"]
    return [[mean - _or(figure["low"], mean)], [_or(figure["high"], mean) - mean]]


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


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"
