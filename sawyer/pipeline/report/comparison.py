"""The page of a comparison: what was found in sentences, tables, plots, and the answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sawyer.evals.comparison import tested
from sawyer.pipeline.report import plots
from sawyer.pipeline.report.build import MOST_PROMPTS, OPEN_PROMPTS, template
from sawyer.pipeline.report.canvas import GRID, error_bars, new_figure, short, style, svg_of

MOST_CELLS = 8
"""So many models and decodings stand beside each other."""
BEHAVIOUR = (
    ("words", "words", ".0f"),
    ("tokens", "tokens", ".0f"),
    ("finished", "ended by itself", ".0%"),
    ("distinct_1", "distinct-1", ".2f"),
    ("distinct_2", "distinct-2", ".2f"),
    ("self_bleu", "self-BLEU", ".2f"),
    ("dispersion", "dispersion", ".2f"),
    ("repetition", "repetition", ".1%"),
    ("entropy", "entropy, nats", ".2f"),
    ("perplexity", "perplexity", ".1f"),
    ("kl", "KL, nats", ".1f"),
)
"""Figure, title and format."""


def page(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], prompts: Sequence[Sequence[Any]]) -> str:
    """The page; the same result gives the same bytes. Text of models and people is escaped.

    Args:
        result: what `apps.compare` found.
        rows: every answer.
        prompts: the turns of each prompt.
    """
    names = [model["name"] for model in result["models"]]
    palette = plots.colours(names, names[0])
    shown = [column for column in BEHAVIOUR if any(column[0] in one for one in result["figures"])]
    scored = [one for one in result["feedback"] if not one["prefers"]]
    return template("compare.html.j2").render(
        result=result,
        palette=palette,
        several=len(result["decodings"]) > 1,
        behaviour=shown,
        scored=scored,
        differences=[plot for one in result["feedback"] if (plot := differences(result, one["name"], palette))],
        distributions=_distributions(result, rows, scored, palette),
        cells=_cells(result),
        samples=_samples(result, rows, prompts),
        open_prompts=OPEN_PROMPTS,
        tested=tested,
    )


def differences(result: Mapping[str, Any], name: str, palette: Mapping[str, str]) -> str | None:
    """Each difference by one feedback as a point with its interval, filled where it can be told; None without any."""
    found = [(one, told) for one in result["comparisons"] if (told := tested(one).get(name)) is not None]
    if not found:
        return None
    several = len(result["decodings"]) > 1
    with style():
        figure, axes = new_figure(5.6, 1.0 + 0.34 * len(found))
        axes.axvline(0, color=GRID, linewidth=1.5)
        for y, (one, told) in enumerate(reversed(found)):
            colour = palette[one["model"]]
            filled = colour if told["verdict"] != "none" else "none"
            axes.errorbar(told["mean"], y, xerr=error_bars(told), fmt="o", color=colour, markersize=7, mfc=filled)
        labels = [
            f"{short(one['model'])} – {short(one['against'])}" + (f", {one['decoding']}" if several else "")
            for one, _ in reversed(found)
        ]
        axes.set_yticks(range(len(found)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(found) - 0.4)
        prefers = any(name in one["preferences"] for one, _ in found)
        axes.set_xlabel(f"share of wins by {name}, less one half" if prefers else f"difference in {name}")
        number = [one["name"] for one in result["feedback"]].index(name)
        return svg_of(figure, f"differences-{number}", f"Differences by {name} of every two models, with intervals")


def _distributions(
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    scored: Sequence[Mapping[str, Any]],
    palette: Mapping[str, str],
) -> list[tuple[str, str]]:
    """A title and a plot for each reward and decoding."""
    drawn = []
    for i, feedback in enumerate(scored):
        name = feedback["name"]
        for j, decoding in enumerate(result["decodings"]):
            own = [
                {"policy": row["model"], name: row["rewards"].get(name)}
                for row in rows
                if row["decoding"] == decoding["name"]
            ]
            plot = plots.reward_distributions(own, name, palette, f"{i}-{j}")
            if plot:
                title = f"{name} · {decoding['name']}" if len(result["decodings"]) > 1 else name
                drawn.append((title, plot))
    return drawn


def _cells(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The models and decodings whose answers are shown."""
    every = [(model["name"], one["name"]) for one in result["decodings"] for model in result["models"]]
    return every[:MOST_CELLS]


def _samples(
    result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], prompts: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """The first answer of each cell to up to MOST_PROMPTS prompts, evenly spaced over all."""
    cells = _cells(result)
    first = result["decodings"][0]["seeds"][0]
    wanted = [int(i) for i in np.linspace(0, len(prompts) - 1, min(MOST_PROMPTS, len(prompts)))]
    held = {
        (row["prompt_id"], row["model"], row["decoding"]): row
        for row in rows
        if row["sample"] == 0 and row["seed"] == first and row["prompt_id"] in set(wanted)
    }
    return [
        {"turns": prompts[i], "answers": [(cell, held[i, *cell]) for cell in cells if (i, *cell) in held]}
        for i in wanted
    ]
