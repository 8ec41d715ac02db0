"""Results of RewardBench side by side, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.data.rewardbench import VERSION_2_SUBSETS
from sawyer.evals.rewardbench import SECTIONS

COLUMNS = {1: tuple(SECTIONS), 2: VERSION_2_SUBSETS}


def leaderboard(results: Sequence[Mapping[str, Any]]) -> str:
    """A table for each version, the best result first; scores are percentages, a dash is what was not measured.

    Args:
        results: what `rewardbench.evaluate` returns, with `model` and `scorer` beside it.

    Returns:
        Markdown that ends with a newline. Under a table stands what makes its lines hard to compare: how ties were
        counted, and which results lack subsets.
    """
    tables = []
    versions = sorted({result["version"] for result in results})
    for version in versions:
        own = [result for result in results if result["version"] == version]
        own.sort(key=lambda result: (-(result["overall"] if result["overall"] is not None else -1), result["model"]))
        names = _names(own)
        columns = [name for name in COLUMNS[version] if any(name in result["sections"] for result in own)]
        extra = ["Other"] if any(result.get("other") for result in own) else []
        title = [f"**RewardBench, version {version}**", ""] if len(versions) > 1 else []
        head = ["", "Model", "Scorer", "Score", "Interval", *columns, *extra]
        lines = [*title, _line(head), _line(["---:", "---", "---", "---:", "---", *["---:"] * len(head[5:])])]
        for rank, (name, result) in enumerate(zip(names, own, strict=True), start=1):
            interval = result["intervals"]["overall"]
            span = "" if interval["low"] is None else f"{_percent(interval['low'])}–{_percent(interval['high'])}"
            cells = [str(rank), name, _cell(result["scorer"]), _percent(result["overall"]), span]
            cells += [_percent(result["sections"].get(name)) for name in columns]
            cells += [_percent((result.get("other") or {}).get("accuracy")) for _ in extra]
            lines.append(_line(cells))
        tables.append("\n".join([*lines, *_notes(own, names)]))
    return "\n\n".join(tables) + "\n"


def _names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call each result: its model; where two would be called the same, the models as they were given."""
    shown = [_cell(result["model"]) for result in results]
    given = [_cell(", ".join(result.get("protocol", {}).get("models", [])) or result["model"]) for result in results]
    return [own if shown.count(own) == 1 else whole for own, whole in zip(shown, given, strict=True)]


def _notes(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    notes = []
    if len({result["ties"] for result in results}) > 1:
        half = [name for name, result in zip(names, results, strict=True) if result["ties"] == "half"]
        notes.append(f"Ties count half for {', '.join(half)} and as wrong for the others.")
    for name, result in zip(names, results, strict=True):
        if result.get("limit"):
            notes.append(f"{name} was measured on the first {result['limit']} rows of each subset.")
        if result["missing"]:
            notes.append(f"{name} was not measured on {', '.join(result['missing'])}.")
    return [line for note in notes for line in ("", note)]


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    """A name as it may stand in a table."""
    return " ".join(str(text).split()).replace("|", "\\|")
