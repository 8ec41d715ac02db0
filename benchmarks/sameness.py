"""Do both sides compute the same thing? Asked before any speed is believed.

Compared are, for every sequence of the first update, its log-prob (its reward, for reward models), and for every update
the gradient norm before clipping and the loss. In fp32 ours must equal TRL's. In bf16 rounding differs (ours rounds the
weights once an update, TRL's autocast at every use), so each side is held against its own fp32 run, the two fp32 runs
strictly against each other, and the two bf16 runs loosely: bfloat16 has three digits, and at the start TRL itself is
this far from its own fp32 run.
"""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]

EXACT = {"values": 1e-3, "grad_norms": 1e-2, "losses": 1e-3}
ROUNDED = {
    "dpo": {"values": 2e-2, "grad_norms": 2e-1, "losses": 2e-1},  # a nat in hundreds is 0.1 of loss at beta 0.1
    "reward": {"values": 1e-1, "grad_norms": 3e-1, "losses": 5e-2},  # differences of small numbers from a random head
    "sft": {"values": 2e-2, "grad_norms": 1e-1, "losses": 2e-2},
}
"""Relative: rewards to the largest one, losses to at least 1, log-probs and gradient norms each to itself."""


def compare(task: str, one: Result, other: Result, precision: str) -> dict[str, Any]:
    """The largest differences between two runs, over the updates both have, and whether they are tolerable."""
    tolerance = EXACT if precision == "fp32" else ROUNDED[task]
    values = _flat(one["values"]), _flat(other["values"])
    if task == "reward":
        one_margin, other_margin = ([a - b for a, b in run["values"]] for run in (one, other))
        largest = max(abs(b) for b in values[1])
        furthest = max(abs(a - b) for a, b in zip(values[0] + one_margin, values[1] + other_margin, strict=True))
        worst = {"values": furthest / largest}
    else:
        worst = {"values": max(abs(a - b) / abs(b) for a, b in zip(*values, strict=True))}
    steps = min(len(one["losses"]), len(other["losses"]))
    norms = zip(one["grad_norms"][:steps], other["grad_norms"][:steps], strict=True)
    worst["grad_norms"] = max(abs(a - b) / b for a, b in norms)
    losses = zip(one["losses"][:steps], other["losses"][:steps], strict=True)
    worst["losses"] = max(abs(a - b) / max(1.0, abs(b)) for a, b in losses)
    same = all(worst[name] <= tolerance[name] for name in worst)  # False, too, where a figure is not a number
    return {"worst": worst, "tolerance": tolerance, "updates": steps, "same": same}


def check(task: str, precision: str, results: dict[str, Result], truths: dict[str, Result]) -> dict[str, Any]:
    """All comparisons of one benchmark.

    Args:
        results: one run of each contender, by name; ours is called `sawyer`.
        truths: in bf16, fp32 runs of `sawyer` and `trl`; else empty.
    """
    pairs = {}
    for name, result in results.items():
        if name != "sawyer":
            pairs[f"sawyer = {name}"] = compare(task, results["sawyer"], result, precision)
    for name, result in results.items() if truths else ():
        truth = truths["sawyer" if name == "sawyer" else "trl"]
        pairs[f"{name} = its fp32"] = compare(task, result, truth, precision)
    if truths:
        pairs["sawyer fp32 = trl fp32"] = compare(task, truths["sawyer"], truths["trl"], "fp32")
    return {"same": all(pair["same"] for pair in pairs.values()), "comparisons": pairs}


def _flat(values: list[list[float]]) -> list[float]:
    return [value for row in values for value in row]
