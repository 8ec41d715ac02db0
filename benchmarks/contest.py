"""One benchmark of training from beginning to end: work, turns, sameness, figures.

In every round the machine's matrix-multiply peak is measured, then each contender has one turn in a process of its own:
ours, TRL at micro-batch 1, at 2, ... so that whatever else the machine does falls on all alike. After the first round
the results are compared; contenders that do not compute the same thing are not timed against each other.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import command, measure, peers, report, sameness, work
from sawyer.errors import SawyerError

MAX_LENGTH = {"dpo": 512, "reward": 512, "sft": 800}
TRUTH_UPDATES = 2


def options(task: str) -> argparse.ArgumentParser:
    """The command line of one benchmark."""
    unit = {"sft": "conversations", "reward": "pairs or rankings"}.get(task, "pairs")
    parser = command.parser(
        task,
        peer=("trl", "whom to measure against; trl is the one there is"),
        data="an HH-RLHF file; without it, text cut to the lengths of real data",
        seed="seed of the generated work and of a fresh reward head",
    )
    command.add_budget(parser)
    command.add_profile(parser)
    add = parser.add_argument
    add("--pairs", "--rows", dest="rows", type=int, default=32, help=f"{unit} in a turn")
    if task == "reward":
        add("--ranking", type=int, default=2, help="completions of a prompt; of more than 2, TRL gets all pairs")
    else:
        parser.set_defaults(ranking=2)
    add("--batch", type=int, default=8, help=f"{unit} in an update, on both sides")
    add("--micro-batches", default="1,2,4,8", help="TRL's micro-batches to try")
    add("--max-length", type=int, default=MAX_LENGTH[task], help="the longest sequence, in tokens")
    return parser


def main(task: str, arguments: list[str] | None = None) -> int:
    """Run one benchmark from the command line; the exit code is 0, 1 (not the same thing) or 2 (a mistake to mend)."""
    return command.main(task, options(task), partial(run, task), command.compared(report.show), arguments)


def run(task: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's report; without ratios if the contenders do not compute the same thing.

    Raises:
        SawyerError: TRL is not installed, sizes do not divide, or model or data cannot be had.
    """
    peers.require(chosen.peer)
    micro_batches = _checked_sizes(chosen)
    rows = _rows(task, chosen)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in _contenders(task, chosen.ranking, micro_batches)}
    peaks: list[dict[str, Any]] = []
    verdict: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        warmed = work.with_warm_up(rows, chosen.batch)
        file.write_text(json.dumps(warmed))
        job: dict[str, Any] = {
            "task": task,
            "model": chosen.model,
            "precision": chosen.precision,
            "rows": str(file),
            "limit": len(warmed),
            "batch": chosen.batch,
            "token_budget": chosen.token_budget,
            "learning_rate": 5e-7,
            "seed": chosen.seed,
            "threads": chosen.threads,
            "profile": False,
        }
        for turn in range(chosen.rounds):
            peaks.append(measure.in_own_process({**job, "contender": "peak", "micro_batch": None}))
            _say(turn, chosen, f"peak         {peaks[-1]['flops_per_second'] / 1e9:8.0f} GFLOP/s")
            for name in turns:
                result = measure.in_own_process({**job, **_who(name)})
                turns[name].append(result)
                seconds = mean(result["step_seconds"][work.WARM_UP :])
                _say(turn, chosen, f"{name:13}{seconds:8.2f} s / update {result['peak_memory_mib']:8.0f} MiB")
            if turn == 0:
                truths = _truths(job, micro_batches) if chosen.precision == "bf16" else {}
                verdict = sameness.check(
                    task, chosen.precision, {name: done[0] for name, done in turns.items()}, truths
                )
                if not verdict["same"]:
                    break
        if chosen.profile:
            print(measure.in_own_process({**job, **_who("sawyer"), "profile": True})["profile"])
    result = {
        "task": task,
        "precision": chosen.precision,
        "n": len(rows),
        "ranking": chosen.ranking,
        "batch": chosen.batch,
        "rounds": chosen.rounds,
        "threads": chosen.threads,
        "model": chosen.model,
        "data": chosen.data.name if chosen.data else "generated",
        "work": work.describe(rows),
        "sameness": verdict,
        **command.circumstances("trl"),
    }
    if verdict["same"]:
        peak = max(measured["flops_per_second"] for measured in peaks)
        result |= report.figures(turns, rows, chosen.batch, peak)
        result["peak_by_round"] = peaks
    return result


def _checked_sizes(chosen: argparse.Namespace) -> list[int]:
    micro_batches = command.sizes(chosen.micro_batches, "--micro-batches", "1,2,4,8")
    if chosen.ranking < 2:
        raise SawyerError("--ranking must be at least 2: one completion alone has no rank")
    pairs = math.comb(chosen.ranking, 2)
    if any(size < 1 or chosen.batch * pairs % size for size in micro_batches):
        of = f"the {chosen.batch * pairs} pairs of an update" if pairs > 1 else f"--batch, which is {chosen.batch}"
        raise SawyerError(f"every one of --micro-batches must divide {of}")
    if chosen.rows % chosen.batch or not chosen.rows:
        raise SawyerError("--pairs must be a multiple of --batch")
    if chosen.rounds < 1:
        raise SawyerError("--rounds must be at least 1")
    return micro_batches


def _rows(task: str, chosen: argparse.Namespace) -> list[work.Row]:
    from sawyer.models.load import load_tokenizer

    tokenizer = load_tokenizer(chosen.model)
    if task == "sft":
        if chosen.data is not None:
            return work.hh_conversations(chosen.data, chosen.rows, tokenizer, chosen.max_length)
        return work.generated_conversations(chosen.rows, tokenizer, chosen.max_length, chosen.seed)
    return work.rankings(chosen.data, chosen.rows, chosen.ranking, tokenizer, chosen.max_length, chosen.seed)


def _contenders(task: str, ranking: int, micro_batches: list[int]) -> list[str]:
    """Ours, and TRL at each micro-batch; on rankings ours by TRL's loss, too, so that the two can be compared; for SFT,
    where TRL can, without padding too (its documentation asks for FlashAttention then, but on short rows the CPU's
    attention gives the same results, which we check)."""
    same_loss = ["sawyer-pairs"] if ranking > 2 else []
    free = [f"trl-{size}-free" for size in micro_batches if task == "sft" and size > 1]
    return ["sawyer", *same_loss, *(f"trl-{size}" for size in micro_batches), *free]


def _who(name: str) -> dict[str, Any]:
    contender, _, rest = name.partition("-")
    size, _, free = rest.partition("-")
    return {
        "contender": contender,
        "all_pairs": rest == "pairs",
        "micro_batch": int(size) if size.isdigit() else None,
        "padding_free": bool(free),
    }


def _truths(job: dict[str, Any], micro_batches: list[int]) -> dict[str, dict[str, Any]]:
    """Both sides in fp32, with the same loss, for the first few updates."""
    short = {**job, "precision": "fp32", "limit": min(job["limit"], TRUTH_UPDATES * job["batch"])}
    smallest = min(micro_batches)
    return {
        "sawyer": measure.in_own_process({**short, **_who("sawyer-pairs")}),  # of pairs the loss is the same
        "trl": measure.in_own_process({**short, **_who(f"trl-{smallest}")}),
    }


def _say(turn: int, chosen: argparse.Namespace, text: str) -> None:
    print(f"round {turn + 1}/{chosen.rounds}  {text}", flush=True)
