"""What `sawyer run --seeds` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sawyer.console import print_table, table

FIGURES = {"gold": "gold", "proxy": "proxy", "kl": "KL, nats", "tokens": "tokens"}
"""Columns of the first table, as far as they were measured."""


def print_seeds(found: dict[str, Any], as_json: bool) -> None:
    """What several seeds found: each policy's figures, and the differences between policies."""
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(f"{found['folder']}: {len(found['seeds'])} seeds. {found['title']}".rstrip(". "))
    for name, evaluation in found["evaluations"].items():
        level = f"{evaluation['level']:.0%}".replace("%", " %")
        print(f"\n{name}: {evaluation['headline']}")
        print(f"Means over {evaluation['prompts']} prompts x {len(found['seeds'])} seeds, {level} intervals over both.")
        _print_policies(evaluation)
        _print_differences(evaluation)


def _print_policies(evaluation: Mapping[str, Any]) -> None:
    measured = [f for f in FIGURES if any(f in evaluation["policies"][policy] for policy in evaluation["order"])]
    shown = table("policy", *(FIGURES[figure] for figure in measured))
    for policy in evaluation["order"]:
        own = evaluation["policies"][policy]
        shown.add_row(policy, *(_with_interval(own.get(figure)) for figure in measured))
    print_table(shown)


def _print_differences(evaluation: Mapping[str, Any]) -> None:
    columns = ("gold", "proxy", "tokens")
    shown = table("policy", "against", "difference", "p (Holm)")
    for one in evaluation["comparisons"]:
        for column in (column for column in columns if column in one):
            p = one[column].get("p_holm")
            by = f"{column} {_with_interval(one[column], '+')}"
            shown.add_row(one["policy"], one["against"], by, "" if p is None else f"{p:.3f}")
    if shown.row_count:
        print_table(shown)


def _with_interval(figure: Mapping[str, Any] | None, sign: str = "") -> str:
    """`0.55 (0.50 to 0.60)`; one digit fewer from 10 on."""
    if figure is None:
        return ""
    form = f"{sign}.2f" if abs(figure["mean"]) < 10 else f"{sign}.1f"
    mean = format(figure["mean"], form)
    if figure["low"] is None:
        return mean
    return f"{mean} ({format(figure['low'], form)} to {format(figure['high'], form)})"
