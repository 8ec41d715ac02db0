"""What `sawyer eval agreement` found, as a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sawyer.apps.plain_page import Line, plain_page
from sawyer.evals import agreement

MOST_CURVES = 12
"""So many calibration curves are drawn."""
ARROW = " -> "
"""Between the rater that is calibrated and the one whose scale is taken."""
TITLES = {
    "exact": "exact agreement",
    "within_one": "within one",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kendall": "Kendall tau-b",
    "kappa": "Cohen's kappa",
    "kappa_linear": "kappa, linear weights",
    "kappa_quadratic": "kappa, quadratic weights",
}


def table_rows(result: Mapping[str, Any]) -> list[Line]:
    """What, figure, interval and n of everything, pair after pair."""
    lines: list[Line] = []
    for pair in result["pairs"]:
        lines.append((f"{pair['a']} ~ {pair['b']}", f"{pair['items']} items", "", ""))
        lines += [_line(f"  {TITLES[name]}", name, figure) for name, figure in pair["measures"].items()]
        for direction, measures in pair["calibrated"].items():
            lines.append((f"  calibrated {direction}", "", "", ""))
            lines += [_line(f"    {TITLES[name]}", name, figure) for name, figure in measures.items()]
    alpha = result["alpha"] or {}
    if alpha:
        lines.append(("Krippendorff's alpha", f"{len(alpha['raters'])} raters", "", ""))
        for name in agreement.ALPHAS:
            few = name != "nominal" and len(alpha["numeric_raters"]) < len(alpha["raters"])
            title = f"  {name}" + (f" ({len(alpha['numeric_raters'])} raters)" if few else "")
            lines += [_line(title, name, alpha[name])] if name in alpha else []
    for rater, found in result["biases"].items():
        lines.append((f"{rater}, as a judge of two", f"{found['verdicts']} verdicts", "", ""))
        lines.append(_line("  ties", "exact", found["tie_rate"]))
        lines.append(_line("  prefers a", "exact", found["first_preferred"]))
        if found["position"] is not None:
            lines.append(_line("  same verdict when swapped", "exact", found["position"]["consistent"]))
            lines.append(_line("  wins more often when shown first", "", found["position"]["first"]))
        for side, title in (("longer", "the longer"), ("own", "its own")):
            if found[side] is not None:
                lines.append(_line(f"  prefers {title}", "exact", found[side]["preferred"]))
                for other, against in found[side]["against"].items():
                    lines.append(_line(f"    more often than {other}", "", against["more"]))
                    if against["opportunity"] is not None:
                        lines.append(_line(f"    agrees more where {other} does", "", against["opportunity"]))
    return lines


def page(result: Mapping[str, Any]) -> str:
    """The figures and plots as one HTML page that asks nothing of the network."""
    from sawyer.pipeline.report import judging_plots

    drawn: list[str | None] = []
    if result["pairs"]:
        numeric = all(rater["numeric"] for rater in result["raters"].values())
        measure = "kappa_quadratic" if numeric else "kappa"
        values = {(pair["a"], pair["b"]): pair["measures"][measure]["mean"] for pair in result["pairs"]}
        drawn.append(judging_plots.agreement_heat_map(list(result["raters"]), values, TITLES[measure]))
    curves = [item for pair in result["pairs"] for item in pair["curves"].items()]
    for number, (direction, points) in enumerate(curves[:MOST_CURVES]):
        x, _, y = direction.partition(ARROW)
        drawn.append(judging_plots.calibration_curve(points, x, y, number))
    text = [
        f"{result['items']} items of {result['prompts']} prompts from {', '.join(result['files'])}. "
        f"{result['level']:.0%} intervals over {result['clusters']}s.",
        *result["notes"],
    ]
    if len(curves) > MOST_CURVES:
        text.append(f"The first {MOST_CURVES} of {len(curves)} calibration curves are drawn.")
    return plain_page("Agreement of raters", text, drawn, table_rows(result))


def _line(title: str, measure: str, figure: Mapping[str, Any]) -> Line:
    """A share in percent, anything else as it is; a dash where it is not defined."""
    share = measure in agreement.SHARES

    def form(value: float) -> str:
        return f"{100 * value:.1f}" if share else f"{value:.3f}"

    unit = " %" if share else ""
    mean = "–" if figure["mean"] is None else form(figure["mean"]) + unit
    span = "" if figure["low"] is None else f"{form(figure['low'])} to {form(figure['high'])}{unit}"
    return title, mean, span, str(figure["n"])
