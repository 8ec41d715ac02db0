"""Plots of reward models and of raters: calibration, length, agreement. Drawn as `canvas` says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sawyer.pipeline.report.canvas import BASELINE, GRID, INK, RAMP, error_bars, new_figure, short, style, svg_of


def reliability(evaluation: Mapping[str, Any], name: str, label: str | None = None) -> str | None:
    """How often the reward model is right when it is this sure, before and after temperature scaling."""
    calibration = evaluation["calibration"]
    before, after = calibration.get("reliability") or [], calibration.get("reliability_after") or []
    if not any(bin["n"] for bin in before):
        return None
    with style():
        figure, axes = new_figure(5.6, 3.5)
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
        return svg_of(figure, "reliability-" + re.sub(r"\W", "-", name), label)


def length_heat_map(heat_map: Mapping[str, Any]) -> str | None:
    """How many prompts have which correlation of reward and length, at which mean length; None without any."""
    if not heat_map["points"]:
        return None
    counts = np.array(heat_map["counts"], dtype=float)
    with style():
        figure, axes = new_figure(5.6, 3.5)
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
        return svg_of(figure, "length-heat-map", "Correlation of reward and length, by mean length")


def agreement_heat_map(raters: Sequence[str], values: Mapping[tuple[str, str], float | None], measure: str) -> str:
    """A measure of agreement for every two raters, as number and colour; a measure that is not defined is a dash."""
    n = len(raters)
    with style():
        figure, axes = new_figure(1.8 + 0.62 * n, 1.1 + 0.5 * n)
        for (a, b), value in values.items():
            for row, column in ((raters.index(a), raters.index(b)), (raters.index(b), raters.index(a))):
                if value is not None:
                    shade = 0.1 + 0.6 * min(abs(value), 1)
                    colour = RAMP[1] if value >= 0 else RAMP[4]
                    axes.fill_between([column, column + 1], row, row + 1, color=colour, alpha=shade, linewidth=0)
                text = "–" if value is None else f"{value:.2f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9, color=INK)
        middles = [at + 0.5 for at in range(n)]
        axes.set_xticks(middles, [short(name) for name in raters], rotation=30, ha="right")
        axes.set_yticks(middles, [short(name) for name in raters])
        axes.tick_params(length=0)
        axes.set_xlim(0, n)
        axes.set_ylim(n, 0)
        axes.grid(visible=False)
        axes.set_title(measure, fontsize=10, color=INK)
        return svg_of(figure, "agreement", f"Agreement of every two raters: {measure}")


def calibration_curve(points: Sequence[Mapping[str, Any]], x: str, y: str, number: int = 0) -> str:
    """What rater `y` says on average where rater `x` says this, and what the fitted monotone map says.

    Args:
        points: see `evals.monotone.curve`.
        number: of the curve on its page.
    """
    with style():
        figure, axes = new_figure(4.4, 3.3)
        label, calibrated = ([point[key] for point in points] for key in ("label", "calibrated"))
        mean = [point["mean"]["mean"] for point in points]
        ends = [min(*label, *mean), max(*label, *mean)] if len(points) > 1 else [label[0] - 1, label[0] + 1]
        axes.plot(ends, ends, color=BASELINE, linewidth=1, linestyle=(0, (4, 3)), label="equal labels")
        bars = np.maximum(np.hstack([error_bars(point["mean"]) for point in points]), 0)  # less than 0 by rounding
        axes.errorbar(label, mean, bars, fmt="o", color=RAMP[0], markersize=5, capsize=0, label="mean label")
        axes.plot(label, calibrated, color=RAMP[4], linewidth=1.8, label="calibrated")
        axes.set_xlabel(short(x))
        axes.set_ylabel(short(y))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, borderpad=0.2)
        return svg_of(figure, f"calibration-{number}", f"Labels of {y} where {x} gives each label")
