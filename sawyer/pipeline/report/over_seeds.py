"""The page of several seeds: each policy's figures over seeds and prompts, and the differences between policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sawyer.evals.over_seeds import COMPARED
from sawyer.pipeline.report import plots
from sawyer.pipeline.report.build import put_page, template

PLOTTED = ("gold", "proxy", "tokens", "kl")


def write_page(found: Mapping[str, Any], path: Path) -> Path:
    """Write what `pipeline.seeds.read_seeds` gave as a page of its own; the same figures give the same bytes."""
    return put_page(template("seeds.html.j2").render(found=found, evaluations=_evaluations(found)), path)


def _evaluations(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_evaluation(name, evaluation) for name, evaluation in found["evaluations"].items()]


def _evaluation(name: str, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    palette = plots.colours(evaluation["order"], evaluation["baseline"])
    palette = {policy: palette[policy] for policy in evaluation["order"]}
    drawn = [plots.over_seeds(evaluation, name, column, palette) for column in PLOTTED]
    if "best_of_n" in evaluation:
        as_one = {**evaluation, "best_of_n": {"points": evaluation["best_of_n"]}}
        drawn += [plots.over_root_kl(as_one, column, palette) for column in ("gold", "proxy")]
    told = [figures.get("training", {}) for figures in evaluation["policies"].values()]
    return {
        "name": name,
        "evaluation": evaluation,
        "palette": palette,
        "plots": [plot for plot in drawn if plot],
        "columns": [c for c in COMPARED if any(c in comparison for comparison in evaluation["comparisons"])],
        "trained": any("seconds" in own for own in told),
        "labelled": any("gold_labels" in own for own in told),
    }
