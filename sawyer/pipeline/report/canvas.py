"""What every plot of a page is drawn on: its style, its colours, and the way from a figure to SVG inside a page.

Plots carry no date and no random names, so the same numbers give the same bytes. Text stays text, and text, axes and
grid take their colour from the page (`currentColor`, `--grid`), so the plots follow a dark page.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#123456", "#654321"
"""Stand-ins that become the page's own colours."""
BASELINE = "#7d8799"
RAMP = ("#0b9bd7", "#5b6cf0", "#9b51e0", "#d6409f", "#ef6c3a")
"""From the first policy after the baseline to the last: the colour says how far along the workflow it is."""


def style() -> Any:
    """What matplotlib draws with, as a context."""
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


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, without a background."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def svg_of(figure: Figure, name: str, label: str) -> str:
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


def error_bars(figure: Mapping[str, Any]) -> list[list[float]]:
    """What reaches from the mean down and up to the ends of its interval, as matplotlib takes it."""
    mean = figure["mean"]
    return [[mean - value_or(figure["low"], mean)], [value_or(figure["high"], mean) - mean]]


def value_or(value: float | None, otherwise: float) -> float:
    """The value, or the other where there is none."""
    return otherwise if value is None else value


def short(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= 18 else name[:17] + "…"
