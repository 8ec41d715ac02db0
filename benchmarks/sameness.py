"""Do both sides compute the same thing? Asked before any speed is believed.

Compared are, for every sequence of the first update, its log-prob (its reward, for reward models; for PPO the
advantages of its tokens, into which log-probs, reference, values and reward all go), and for every update
the gradient norm before clipping and the loss. In fp32 ours must equal the peer's. In bf16 rounding differs (ours
rounds the weights once an update, TRL's autocast at every use), so each side is held against its own fp32 run, the two
fp32 runs strictly against each other, and the two bf16 runs loosely: bfloat16 has three digits, and at the start TRL
itself is this far from its own fp32 run.

Where nothing is trained, a peer's own rounding is not held against it: the two fp32 runs must be equal, ours in bf16
must be near to its fp32 run, and how far the peer's bf16 runs are, which is further at some batch sizes than at others,
is told (`decides` is false).

Plackett-Luce on rankings, which TRL does not have, is another loss than that of their pairs. There our turns by the
pairs' loss, `sawyer-pairs`, must equal TRL's, and those by Plackett-Luce must begin from the same rewards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]

VALUES: tuple[str, ...] = ("values",)
FIGURES = (*VALUES, "grad_norms", "losses")
EXACT = {"values": 1e-3, "grad_norms": 1e-2, "losses": 1e-3}
ROUNDED = {
    "dpo": {"values": 2e-2, "grad_norms": 2e-1, "losses": 2e-1},  # a nat in hundreds is 0.1 of loss at beta 0.1
    "ppo": {"values": 1e-1, "grad_norms": 3e-1, "losses": 5e-2},  # advantages over a value model with a random head
    "reward": {"values": 1e-1, "grad_norms": 3e-1, "losses": 5e-2},  # differences of small numbers from a random head
    "online": {"values": 2e-2, "grad_norms": 2e-1, "losses": 2e-1},  # DPO on answers that were drawn
    "sft": {"values": 2e-2, "grad_norms": 1e-1, "losses": 2e-2},
}
"""Relative: rewards and advantages to the largest one, losses to at least 1, log-probs and gradient norms each to
itself."""


def compare(task: str, one: Result, other: Result, precision: str, figures: Sequence[str] = FIGURES) -> dict[str, Any]:
    """The largest differences between two runs, over the updates both have, and whether they are tolerable."""
    tolerance = EXACT if precision == "fp32" else ROUNDED[task]
    worst = {}
    if task in ("reward", "ppo"):
        worst["values"] = _furthest_rewards(one["values"], other["values"])
    else:
        values = zip(_flat(one["values"]), _flat(other["values"]), strict=True)
        worst["values"] = max(abs(a - b) / abs(b) for a, b in values)
    steps = 0
    if figures != VALUES:
        steps = min(len(one["losses"]), len(other["losses"]))
        norms = zip(one["grad_norms"][:steps], other["grad_norms"][:steps], strict=True)
        worst["grad_norms"] = max(abs(a - b) / b for a, b in norms)
        losses = zip(one["losses"][:steps], other["losses"][:steps], strict=True)
        worst["losses"] = max(abs(a - b) / max(1.0, abs(b)) for a, b in losses)
    same = all(worst[name] <= tolerance[name] for name in worst)  # False, too, where a figure is not a number
    return {"worst": worst, "tolerance": tolerance, "updates": steps, "same": same}


def check(
    task: str,
    precision: str,
    results: dict[str, Result],
    truths: dict[str, Result],
    figures: Sequence[str] = FIGURES,
) -> dict[str, Any]:
    """All comparisons of one benchmark.

    Args:
        results: one run of each contender, by name; ours is called `sawyer`, and `sawyer-pairs` where it has TRL's loss
            on rankings; what precedes the hyphen in the name of another is the peer.
        truths: in bf16, fp32 runs of `sawyer` and of the peer, with the same loss; else empty.
        figures: `VALUES` where nothing is trained.
    """
    ours = "sawyer-pairs" if "sawyer-pairs" in results else "sawyer"
    trained = figures != VALUES
    pairs = {}
    for name, result in results.items():
        if name != ours:
            of = VALUES if name == "sawyer" else figures
            pairs[f"{ours} = {name}"] = {
                **compare(task, results[ours], result, precision, of),
                "decides": trained or not truths,
            }
    for name, result in results.items() if truths else ():
        if name == ours or name != "sawyer":
            truth = truths[name.partition("-")[0]]
            pairs[f"{name} = its fp32"] = {
                **compare(task, result, truth, precision, figures),
                "decides": trained or name == ours,
            }
    if truths:
        exact, (peer, its) = truths["sawyer"], next((k, run) for k, run in truths.items() if k != "sawyer")
        pairs[f"sawyer fp32 = {peer} fp32"] = {**compare(task, exact, its, "fp32", figures), "decides": True}
    return {"same": all(pair["same"] for pair in pairs.values() if pair["decides"]), "comparisons": pairs}


def _furthest_rewards(one: list[list[float]], other: list[list[float]]) -> float:
    """The largest difference of two rewards, or of a pair's two margins, relative to the largest reward; rankings count
    as all their pairs."""
    pairs = [[pair for row in values for pair in itertools.combinations(row, 2)] for values in (one, other)]
    largest = max(abs(reward) for pair in pairs[1] for reward in pair)
    furthest = max(max(abs(a - c), abs(b - d), abs((a - b) - (c - d))) for (a, b), (c, d) in zip(*pairs, strict=True))
    return furthest / largest


def _flat(values: list[list[float]]) -> list[float]:
    return [value for row in values for value in row]
