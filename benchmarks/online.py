"""One step of online preference optimisation against TRL's OnlineDPOTrainer: `python -m benchmarks.online --peer trl`.

A step answers 16 prompts twice with exactly 48 tokens, scores the answers, and updates the policy by DPO on the pairs;
all of it is timed. Ours is the stage `online` as recipes run it. The peer is tried at every micro-batch, and with every
cache of keys and values that is asked for; the first `--warm-up` updates of a turn are not timed on either side. The
contenders alternate, each turn in a process of its own.

What is drawn differs between the sides. So after the first round all of them get the answers that ours drew, and their
log-probs, losses and gradient norms must be the same (`sameness.py`), or there are no ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import command, measure, peers, sameness, work
from sawyer.errors import SawyerError

CHECKED = 2
"""Updates on the same answers."""
CACHES = ("dynamic", "static")
OURS = "sawyer"
Job = dict[str, Any]
Turns = dict[str, list[dict[str, Any]]]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(
        "online",
        peer=("trl", "whom to measure against; trl is the one there is"),
        data="an HH-RLHF file, for its prompts; without it, verifiable prompts",
        seed="seed of the draws and of a fresh reward head",
    )
    command.add_budget(parser)
    command.add_profile(parser)
    add = parser.add_argument
    add("--batch", type=int, default=16, help="prompts in an update, each answered twice")
    add("--tokens", type=int, default=48, help="tokens of an answer")
    add("--updates", type=int, default=2, help="timed updates in a turn")
    add("--warm-up", type=int, default=work.WARM_UP, help="updates before those that are timed")
    add("--micro-batches", default="2,4,8,16", help="TRL's micro-batches to try")
    add("--caches", default="dynamic", help=f"TRL's caches to try: {' or '.join(CACHES)}, or both with a comma")
    add("--reward", choices=("rule", "model"), default="rule", help="what scores: a rule of no cost, or a model")
    add("--max-length", type=int, default=512, help="the longest prompt and answer together, in tokens")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 0, 1 (the sides do not compute the same thing) or 2 (a mistake to mend)."""
    return command.main("online", options(), run, command.compared(_show), arguments)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's report; without ratios if the contenders do not compute the same thing.

    Raises:
        SawyerError: TRL is not installed, a size does not fit, or model or data cannot be had.
    """
    peers.require(chosen.peer)
    names = _checked(chosen)

    from sawyer.models.load import load_tokenizer

    updates = chosen.warm_up + chosen.updates
    longest = chosen.max_length - chosen.tokens
    rows = work.prompts(chosen.data, updates * chosen.batch, load_tokenizer(chosen.model), longest)
    turns: Turns = {name: [] for name in names}
    verdict: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        file.write_text(json.dumps(rows))
        job = {
            "task": "online", "model": chosen.model, "folder": folder, "precision": chosen.precision,
            "rows": str(file), "limit": len(rows), "batch": chosen.batch, "tokens": chosen.tokens,
            "reward": chosen.reward, "max_length": chosen.max_length, "token_budget": chosen.token_budget,
            "learning_rate": 5e-7, "seed": chosen.seed, "threads": chosen.threads, "answers": None, "profile": False,
        }  # fmt: skip
        measure.in_own_process({**job, "contender": "weights", "micro_batch": None})
        for turn in range(chosen.rounds):
            for name in names:
                result = measure.in_own_process({**job, **_who(name)})
                turns[name].append(result)
                _say(f"round {turn + 1}/{chosen.rounds}", name, result, chosen.warm_up)
            if turn == 0:
                verdict = _sameness(job, turns, chosen)
                if not verdict["same"]:
                    break
        if chosen.profile:
            print(measure.in_own_process({**job, **_who(OURS), "profile": True})["profile"])
    figures = _figures(turns, chosen) if verdict["same"] else dict.fromkeys(("speed_ratio", "same_batch_ratio"))
    return {
        **figures,
        "task": "online",
        "precision": chosen.precision,
        "batch": chosen.batch,
        "n": 2,
        "tokens": chosen.tokens,
        "reward": chosen.reward,
        "updates": chosen.updates,
        "warm_up": chosen.warm_up,
        "rounds": chosen.rounds,
        "threads": chosen.threads,
        "model": chosen.model,
        "data": chosen.data.name if chosen.data else "verifiable",
        "sameness": verdict,
        **command.circumstances("trl"),
    }


def _checked(chosen: argparse.Namespace) -> list[str]:
    """The contenders' names, ours first: `trl-<micro-batch>[-static]`."""
    sizes = command.sizes(chosen.micro_batches, "--micro-batches", "2,4,8,16")
    if any(size < 1 or chosen.batch % size for size in sizes):
        raise SawyerError(f"every one of --micro-batches must divide --batch, which is {chosen.batch}")
    caches = chosen.caches.split(",")
    if not set(caches) <= set(CACHES):
        raise SawyerError(f"--caches takes {' or '.join(CACHES)}, or both with a comma, not {chosen.caches!r}")
    if min(chosen.updates, chosen.rounds, chosen.tokens) < 1 or chosen.warm_up < 0:
        raise SawyerError("--updates, --rounds and --tokens must be at least 1, and --warm-up at least 0")
    kinds = ["" if cache == "dynamic" else f"-{cache}" for cache in caches]
    return [OURS, *(f"trl-{size}{kind}" for size in sizes for kind in kinds)]


def _who(name: str) -> Job:
    contender, _, rest = name.partition("-")
    size, _, cache = rest.partition("-")
    return {"contender": contender, "micro_batch": int(size) if size else None, "cache": cache or None}


def _sameness(job: Job, turns: Turns, chosen: argparse.Namespace) -> dict[str, Any]:
    """Whether all contenders do the same with the same answers: those that ours drew in its first turn."""
    drawn = [result for results in turns.values() for result in results]
    lengths = {len(ids) for one in drawn for update in one["answers"] for own in update for ids in own}
    if lengths != {chosen.tokens}:
        raise RuntimeError(f"answers of {sorted(lengths)} tokens were drawn, and not of {chosen.tokens} alone")
    answers = turns[OURS][0]["answers"][:CHECKED]
    file = Path(job["folder"], "answers.json")
    file.write_text(json.dumps(answers))
    job = {**job, "answers": str(file), "limit": len(answers) * chosen.batch, "reward": "rule"}
    given = {name: measure.in_own_process({**job, **_who(name)}) for name in turns if not name.endswith("-static")}
    if given[OURS]["pairs"] != [chosen.batch] * len(answers):
        raise RuntimeError("two answers of a prompt are equal, which the sides treat differently: take another --seed")
    truths = {}
    if chosen.precision == "bf16":
        exact, smallest = {**job, "precision": "fp32"}, min(given.keys() - {OURS}, key=lambda name: int(name[4:]))
        truths = {name.partition("-")[0]: measure.in_own_process({**exact, **_who(name)}) for name in (OURS, smallest)}
    return sameness.check("online", chosen.precision, given, truths)


def _figures(turns: Turns, chosen: argparse.Namespace) -> dict[str, Any]:
    """The figures of each contender and the ratios: `speed_ratio` is against TRL at its fastest, `same_batch_ratio` and
    `memory_ratio` are against TRL with the whole batch at once. An update's time is its median over the rounds, and a
    contender's the mean over its updates."""
    table = {}
    for name, results in turns.items():
        timed, drawn = (
            [result[key][chosen.warm_up :] for result in results] for key in ("step_seconds", "generate_seconds")
        )
        table[name] = {
            "seconds_per_step": mean(median(times) for times in zip(*timed, strict=True)),
            "seconds_per_step_min": min(map(mean, timed)),
            "seconds_per_step_max": max(map(mean, timed)),
            "generate_seconds": mean(median(times) for times in zip(*drawn, strict=True)),
            "peak_memory_mib": max(result["peak_memory_mib"] for result in results),
            "step_seconds_by_round": [result["step_seconds"] for result in results],
        }
    ours, theirs = table[OURS], {name: line for name, line in table.items() if name != OURS}
    fastest = min(theirs, key=lambda name: theirs[name]["seconds_per_step"])
    whole = {name: line for name, line in theirs.items() if _who(name)["micro_batch"] == chosen.batch}
    same = min(whole, key=lambda name: whole[name]["seconds_per_step"], default=None)
    return {
        "speed_ratio": theirs[fastest]["seconds_per_step"] / ours["seconds_per_step"],
        "same_batch_ratio": None if same is None else whole[same]["seconds_per_step"] / ours["seconds_per_step"],
        "memory_ratio": None if same is None else ours["peak_memory_mib"] / whole[same]["peak_memory_mib"],
        "memory_ratio_fastest": ours["peak_memory_mib"] / theirs[fastest]["peak_memory_mib"],
        "fastest_peer": fastest,
        "contenders": table,
    }


def _say(when: str, name: str, result: dict[str, Any], warm_up: int) -> None:
    seconds, drawn = (mean(result[key][warm_up:]) for key in ("step_seconds", "generate_seconds"))
    memory = result["peak_memory_mib"]
    print(f"{when}  {name:16}{seconds:8.2f} s / update, {drawn:6.2f} s of it to answer {memory:8.0f} MiB", flush=True)


def _show(result: dict[str, Any]) -> None:
    fastest = result["fastest_peer"]
    print(
        f"sawyer is {result['speed_ratio']:.2f} times as fast as TRL at its fastest ({fastest}), "
        f"in {result['memory_ratio_fastest']:.2f} of its memory"
    )
    if result["same_batch_ratio"] is not None:
        print(
            f"and {result['same_batch_ratio']:.2f} times with all {result['batch']} prompts at once, "
            f"in {result['memory_ratio']:.2f} of its memory."
        )


if __name__ == "__main__":
    sys.exit(main())
