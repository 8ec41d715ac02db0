"""What a comparison found, in sentences that claim no more than was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sawyer.evals.comparison import tested


def headline(result: Mapping[str, Any]) -> str:
    """One sentence: the last model against the first, by the feedback that was named first."""
    first, last = result["models"][0]["name"], result["models"][-1]["name"]
    found = next(
        (one for one in result["comparisons"] if (one["model"], one["against"]) == (last, first)),
        result["comparisons"][0],
    )
    return sentences_of(found, result)[0]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """One for each two models, decoding and feedback, in the order of the comparisons."""
    return [said for one in result["comparisons"] for said in sentences_of(one, result)]


def sentences_of(comparison: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """What every feedback says of two models, the feedback that was named first first."""
    told = tested(comparison)
    order = [one["name"] for one in result["feedback"] if one["name"] in told]
    if not order:
        return [f"{comparison['model']} and {comparison['against']} were not compared: no feedback judged both."]
    return [_sentence(comparison, told[name], name, result) for name in order]


def _sentence(comparison: Mapping[str, Any], found: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> str:
    model, against = comparison["model"], comparison["against"]
    drawn = next(one for one in result["decodings"] if one["name"] == comparison["decoding"])
    by = f" by {comparison['decoding']}" if len(result["decodings"]) > 1 else ""
    size = f"n = {found['n']} prompts x {drawn['samples']}"
    if len(drawn["seeds"]) > 1:
        size += f" x {len(drawn['seeds'])} seeds"
    if found["low"] is None:
        return f"No difference can be told between {model} and {against}{by}: one prompt has no interval ({size})."
    proxy = _is_proxy(name, result)
    if found["verdict"] == "none":
        return _undecided(model, against, by, found, name, size, proxy)
    tests = result["tests"]
    p = f"p {_p(found['p_holm'])}" + (f" corrected for {tests} tests" if tests > 1 else "")
    level = f"{100 * result['level']:g} % interval"
    if "win_rate" in found and name in comparison["preferences"]:
        won = found["win_rate"]
        interval = f"{_percent(won['low'])} to {_percent(won['high'])}"
        said = f"{model} {'beats' if found['verdict'] == 'better' else 'loses to'} {against}{by} in "
        return f"{said}{_percent(won['mean'])} of pairs by {name} ({level} {interval}, {size}, {p}).{proxy}"
    digits = _digits(found)
    interval = f"{found['low']:+.{digits}f} to {found['high']:+.{digits}f}"
    said = f"{model} is {found['verdict']} than {against}{by} by {found['mean']:+.{digits}f} {name}"
    return f"{said} ({level} {interval}, {size}, {p}).{proxy}"


def _undecided(model: str, against: str, by: str, found: Mapping[str, Any], name: str, size: str, proxy: str) -> str:
    said = f"No difference in {name} can be told between {model} and {against}{by}: "
    if not found["sd"]:
        return f"{said}it is the same on every prompt ({size})."
    digits = _digits(found)
    interval = f"{found['mean']:+.{digits}f}, {found['low']:+.{digits}f} to {found['high']:+.{digits}f}"
    seen = f"{found['detectable']:.{digits}f}"
    return f"{said}{interval}; with {size} only differences above {seen} would show four times in five.{proxy}"


def _is_proxy(name: str, result: Mapping[str, Any]) -> str:
    """A warning where a model was trained on what it is scored by."""
    trained: list[str] = next((one["trained"] for one in result["feedback"] if one["name"] == name), [])
    return f" ({name} is what {', '.join(trained)} was trained on.)" if trained else ""


def _digits(found: Mapping[str, Any]) -> int:
    """So many that the interval has two figures, and at least two decimals."""
    width = max(abs(found["high"] - found["low"]) / 2, 1e-9)
    return max(2, min(6, 1 - math.floor(math.log10(width))))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
