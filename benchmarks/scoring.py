"""Rewards of n completions of each prompt, against transformers' own classifier: `python -m benchmarks.scoring`.

Ours reads a prompt once, with all its completions. The peer, `AutoModelForSequenceClassification`, reads every
completion behind its prompt, in batches of sequences of like length, in the same precision, with the attention that it
chooses. Its batch sizes are tried once each; the fastest takes turns with ours, each turn in a process of its own.
Both sides must give the same rewards (`sameness.py`), or they are not timed against each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import command, measure, sameness, work
from sawyer.errors import SawyerError

PEER = "transformers"
Job = dict[str, Any]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(
        "scoring",
        peer=(PEER, "whom to measure against; transformers is the one there is"),
        data="an HH-RLHF file; without it, text cut to the lengths of real data",
        rounds=3,
        seed="seed of the generated work and of the reward head",
    )
    command.add_budget(parser)
    command.add_profile(parser)
    add = parser.add_argument
    add("--prompts", type=int, default=16, help="prompts in a turn")
    add("--n", type=int, default=8, help="completions of each prompt, with --data those of the rows around it")
    add("--batches", default="1,2,4,8,16,32", help="the peer's batch sizes to try")
    add("--max-length", type=int, default=512, help="the longest sequence, in tokens")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 0, 1 (the sides do not give the same rewards) or 2 (a mistake to mend)."""
    end = command.compared(command.show_ratios, "give the same rewards")
    return command.main("scoring", options(), run, end, arguments)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's report, whose ratios are null if the contenders do not give the same rewards.

    Raises:
        SawyerError: the peer is unknown, a size is not a positive number, or model or data cannot be had.
    """
    from sawyer.models.load import load_tokenizer

    names = _checked(chosen)
    rows = work.rankings(
        chosen.data, chosen.prompts, chosen.n, load_tokenizer(chosen.model), chosen.max_length, chosen.seed
    )
    turns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        file.write_text(json.dumps(rows))
        job = {
            "task": "scoring", "model": chosen.model, "precision": chosen.precision, "rows": str(file),
            "limit": len(rows), "token_budget": chosen.token_budget, "seed": chosen.seed, "threads": chosen.threads,
            "profile": False,
        }  # fmt: skip
        tried = {name: _turn(job, name, "tried") for name in names}
        fastest = min(names[1:], key=lambda name: tried[name]["seconds"])
        truths = {}
        if chosen.precision == "bf16":
            exact = {**job, "precision": "fp32"}
            truths = {name.partition("-")[0]: _turn(exact, name, "in fp32") for name in ("sawyer", fastest)}
        verdict = sameness.check("reward", chosen.precision, tried, truths, sameness.VALUES)
        for turn in range(chosen.rounds if verdict["same"] else 0):
            for name in ("sawyer", fastest):
                turns.setdefault(name, []).append(_turn(job, name, f"round {turn + 1}/{chosen.rounds}"))
        if chosen.profile:
            print(measure.in_own_process({**job, **_who("sawyer"), "profile": True})["profile"])
    return {
        **_figures(turns, fastest, rows),
        "tried_once": {name: {key: one[key] for key in ("seconds", "peak_memory_mib")} for name, one in tried.items()},
        "task": "scoring",
        "precision": chosen.precision,
        "n": chosen.n,
        "prompts": chosen.prompts,
        "rounds": chosen.rounds,
        "threads": chosen.threads,
        "model": chosen.model,
        "data": chosen.data.name if chosen.data else "generated",
        "work": work.describe(rows),
        "sameness": verdict,
        **command.circumstances(),
    }


def _checked(chosen: argparse.Namespace) -> list[str]:
    """The contenders' names, ours first."""
    if chosen.peer != PEER:
        raise SawyerError(f"there is no peer called {chosen.peer!r}: the only one is {PEER}")
    sizes = command.sizes(chosen.batches, "--batches", "1,2,4,8")
    if min(*sizes, chosen.prompts, chosen.rounds) < 1:
        raise SawyerError("--batches, --prompts and --rounds must be at least 1")
    if chosen.n < 2:
        raise SawyerError("--n must be at least 2: one completion alone shares its prompt with none")
    return ["sawyer", *(f"{PEER}-{size}" for size in sizes)]


def _turn(job: Job, name: str, when: str) -> dict[str, Any]:
    result = measure.in_own_process({**job, **_who(name)})
    print(f"{when:10}  {name:16}{result['seconds']:8.2f} s {result['peak_memory_mib']:8.0f} MiB", flush=True)
    return result


def _who(name: str) -> Job:
    contender, _, size = name.partition("-")
    return {"contender": contender, "micro_batch": int(size) if size else None}


def _figures(turns: dict[str, list[dict[str, Any]]], fastest: str, rows: list[work.Row]) -> dict[str, Any]:
    """The ratios and each contender's figures. A token of a prompt counts once for ours and with every completion for
    the peer, padding for neither, so that completions a second are the fair comparison."""
    if not turns:
        return {"speed_ratio": None, "memory_ratio": None, "fastest_peer": fastest, "contenders": {}}
    completions = sum(len(row["completions"]) for row in rows)
    once = sum(map(work.tokens_once, rows))
    again = sum(len(row["prompt"]) * (len(row["completions"]) - 1) for row in rows)
    table = {}
    for name, results in turns.items():
        seconds = [result["seconds"] for result in results]
        table[name] = {
            "seconds": median(seconds),
            "seconds_by_round": seconds,
            "completions_per_second": completions / median(seconds),
            "tokens_per_second": (once if name == "sawyer" else once + again) / median(seconds),
            "peak_memory_mib": max(result["peak_memory_mib"] for result in results),
        }
    ours, peer = table["sawyer"], table[fastest]
    return {
        "speed_ratio": peer["seconds"] / ours["seconds"],
        "memory_ratio": ours["peak_memory_mib"] / peer["peak_memory_mib"],
        "fastest_peer": fastest,
        "contenders": table,
    }


if __name__ == "__main__":
    sys.exit(main())
