"""What `sawyer compare` found, as tables that fit a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sawyer.evals.comparison import tested

COLUMNS = (
    ("words", "words", ".0f"),
    ("finished", "ended", ".0%"),
    ("distinct_2", "dist-2", ".2f"),
    ("self_bleu", "s-BLEU", ".2f"),
    ("dispersion", "disp.", ".2f"),
    ("repetition", "rep.", ".0%"),
    ("entropy", "entropy", ".2f"),
    ("perplexity", "ppl", ".1f"),
    ("kl", "KL", ".1f"),
)
"""Figure, title and format. The rest is in the file."""
Table = tuple[list[str], list[list[str]]]
"""Titles and rows."""


def rewards_table(result: Mapping[str, Any]) -> Table:
    """By feedback and decoding, each model with its mean and what it is against the first."""
    several, first = len(result["decodings"]) > 1, result["models"][0]["name"]
    rows = []
    for feedback in result["feedback"]:
        name, title = feedback["name"], feedback["name"] + (" (proxy)" if feedback["trained"] else "")
        for figures in result["figures"]:
            found = _against(result, figures, first).get(name, {})
            reward = figures["rewards"].get(name)
            if not found and reward is None:
                continue
            means = "" if reward is None else _span(reward, ".2f")
            difference = _span(found, "+.2f") if found else ""
            cells = [title, *([figures["decoding"]] if several else []), figures["model"], means, difference]
            cells += [_p(found["p_holm"]), f"{100 * found['win_rate']['mean']:.0f} %"] if found else ["", ""]
            rows.append(cells)
            title = ""
    titles = ["by", *(["decoding"] if several else []), "model", "mean", f"against {first}", "p", "wins"]
    return titles, rows


def behaviour_table(result: Mapping[str, Any]) -> Table:
    """Each model's length, diversity and distance from the reference."""
    several = len(result["decodings"]) > 1
    shown = [column for column in COLUMNS if any(column[0] in figures for figures in result["figures"])]
    rows = [
        [*([figures["decoding"]] if several else []), figures["model"]]
        + [_number(figures[name]["mean"], form) if name in figures else "–" for name, _, form in shown]
        for figures in result["figures"]
    ]
    return [*(["decoding"] if several else []), "model", *(title for _, title, _ in shown)], rows


def _against(result: Mapping[str, Any], figures: Mapping[str, Any], first: str) -> dict[str, Mapping[str, Any]]:
    wanted = (figures["model"], first, figures["decoding"])
    return next(
        (tested(one) for one in result["comparisons"] if (one["model"], one["against"], one["decoding"]) == wanted), {}
    )


def _span(figure: Mapping[str, Any], form: str) -> str:
    mean = _number(figure["mean"], form)
    if figure["low"] is None:
        return mean
    return f"{mean} ({_number(figure['low'], form)} to {_number(figure['high'], form)})"


def _number(value: float, form: str) -> str:
    return format(value, form).replace("%", " %")


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"
