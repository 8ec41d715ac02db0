"""What the report says of red teams and of critique and revision: tables, a plot, and answers that nobody chose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sawyer.pipeline.report.canvas import BASELINE, RAMP, error_bars, new_figure, short, style, svg_of

if TYPE_CHECKING:
    from sawyer.pipeline.report.contents import Stage

MOST_SHOWN = 12
"""Prompts whose answers are shown, and chains."""
MOST_CATEGORIES = 40
"""Categories that the plot has room for."""


def red_teams(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """All `redteam` stages of a run; None where there is none."""
    teams = [stage for stage in stages if stage.red_team]
    if not teams:
        return None
    return {
        "level": teams[0].red_team["level"],
        "rows": [_overview(stage) for stage in teams],
        "parts": list(dict.fromkeys(part for stage in teams for part in _group(stage.red_team, "part"))),
        "teams": [
            {"stage": stage, "tables": _tables(stage.red_team), "plot": by_category(stage.red_team, stage.name)}
            for stage in teams
        ],
        "samples": _side_by_side(teams),
    }


def critiques(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Each `critique` stage of a run, with chains evenly spaced over all."""
    return [
        {
            "stage": stage,
            "found": stage.critique,
            "chains": [{**row, "turns": row.get("prompt") or []} for row in spaced(stage.chains)],
        }
        for stage in stages
        if stage.critique
    ]


def by_category(found: Mapping[str, Any], name: str) -> str | None:
    """Attack success of each category with its interval; None without attacks."""
    groups = list(_group(found, "category").items())[:MOST_CATEGORIES]
    if not groups:
        return None
    with style():
        figure, axes = new_figure(5.6, 1.0 + 0.3 * len(groups))
        for y, (_, own) in enumerate(reversed(groups)):
            success = own["attack_success"]
            axes.errorbar(success["mean"], y, xerr=error_bars(success), fmt="o", color=RAMP[0], markersize=6)
        axes.axvline(found["attacks"]["attack_success"]["mean"], color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(groups)), [short(category) for category, _ in reversed(groups)])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(groups) - 0.4)
        axes.set_xlabel("attack success (dashed: all)")
        return svg_of(figure, "attacks-" + re.sub(r"\W", "-", name), f"Attack success of stage {name} by category")


def spaced(rows: Sequence[Any], most: int = MOST_SHOWN) -> list[Any]:
    """Up to `most` of them, evenly spaced over all."""
    step = max(1.0, len(rows) / most)
    return [rows[int(i * step)] for i in range(min(most, len(rows)))]


def _overview(stage: Stage) -> dict[str, Any]:
    found = stage.red_team
    return {
        "name": stage.name,
        "target": found["target"],
        "classifier": found["classifier"],
        "attacks": found["attacks"] or {},
        "by_part": {part: own["attack_success"] for part, own in _group(found, "part").items()},
        "benign": found["benign"] or {},
        "unjudged": found["unjudged"],
        "compared": found["compared"] or {},
    }


def _tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By category, by method where there are several, and the harmless requests by category."""
    change = ((found["compared"] or {}).get("attack_success") or {}).get("by_category", {})
    tables = []
    for grouping in ("category", "method"):
        groups = _group(found, grouping)
        if groups and (grouping == "category" or len(groups) > 1):
            rows = [(name, own, change.get(name) if grouping == "category" else None) for name, own in groups.items()]
            tables.append({"title": f"Attacks by {grouping}", "benign": False, "rows": rows})
    harmless = (found["benign"] or {}).get("by_category", {})
    if harmless:
        rows = [(name, own, None) for name, own in harmless.items()]
        tables.append({"title": "Harmless requests", "benign": True, "rows": rows})
    return tables


def _side_by_side(teams: Sequence[Stage]) -> list[dict[str, Any]]:
    """The first answers of all stages to some prompts of the first one."""
    answers: dict[str, dict[str, Mapping[str, Any]]] = {}
    for stage in teams:
        for row in stage.attacks:
            answers.setdefault(json.dumps(row.get("prompt"), sort_keys=True), {}).setdefault(stage.name, row)
    return [
        {"turns": json.loads(prompt) or [], "answers": list(own.items())}
        for prompt, own in spaced(list(answers.items()))
    ]


def _group(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return (found["attacks"] or {}).get(f"by_{name}", {})
