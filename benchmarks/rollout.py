"""Generation against `generate()` of transformers, or CTranslate2 in int8: `python -m benchmarks.rollout --peer hf`.

| setting | what is generated |
|---|---|
| `fixed` | 8 prompts x 8 samples of exactly 64 tokens |
| `natural` | 16 prompts x 8 samples which end when they end, of at most 256 tokens |
| `greedy` | one prompt, one greedy completion of exactly 64 tokens |
| `refresh` | nothing: seconds until the engine has taken a trainer's float32 weights; ours alone |
| `queue` | 500 and 10,000 prompts, one sample of exactly 16 tokens each; ours alone, and only where it is asked for |

Contenders alternate, each turn in a process of its own. `generate()` runs in bf16 and in fp32, and its faster precision
counts; ours runs in `--precision`. First both sides must agree: the same greedy tokens in fp32.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import generators, measure
from sawyer.errors import SawyerError

SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"prompts": 8, "n": 8, "temperature": 1.0, "min_tokens": 64, "max_tokens": 64},
    "natural": {"prompts": 16, "n": 8, "temperature": 1.0, "min_tokens": 0, "max_tokens": 256},
    "greedy": {"prompts": 1, "n": 1, "temperature": 0.0, "min_tokens": 64, "max_tokens": 64},
}
ALONE: dict[str, dict[str, Any]] = {
    "refresh": {"prompts": 1, "n": 1, "temperature": 0.0, "min_tokens": 1, "max_tokens": 1},
    "queue": {"prompts": 10_000, "few": 500, "n": 1, "temperature": 1.0, "min_tokens": 16, "max_tokens": 16},
}
AGREE_TOKENS = 16


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--peer", default="hf", help="hf or ctranslate2")
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="what ours computes in")
    add("--settings", default=",".join([*SETTINGS, "refresh"]), help="which settings to measure")
    add("--rounds", type=int, default=2, help="turns of each contender")
    add("--model", default="smollm2", help="smollm2, a folder, or a hub id")
    add("--threads", type=int, default=measure.cores(), help="threads of each contender")
    add("--seed", type=int, default=0, help="seed of the draws")
    add("--json", type=Path, help="write the figures to this file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 0, 1 (the sides do not agree) or 2 (a mistake to mend)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = options().parse_args(arguments)
    try:
        result = run(chosen)
    except SawyerError as error:
        print(error, file=sys.stderr)
        return 2
    result["command"] = shlex.join(["python", "-m", "benchmarks.rollout", *arguments])
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["same"] else 1


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """The figures of every setting, by name.

    Raises:
        SawyerError: the peer is not installed, a setting is unknown, the model cannot be had.
    """
    generators.require(chosen.peer)
    names = chosen.settings.split(",")
    unknown = [name for name in names if name not in SETTINGS and name not in ALONE]
    if unknown:
        raise SawyerError(f"there is no setting {unknown[0]!r}: choose of {', '.join([*SETTINGS, *ALONE])}")
    if chosen.rounds < 1:
        raise SawyerError("--rounds must be at least 1")
    asked = {name: (SETTINGS | ALONE)[name] for name in names}
    prompts = _prompts(chosen.model, max(setting["prompts"] for setting in (*asked.values(), SETTINGS["greedy"])))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "prompts.json")
        file.write_text(json.dumps(prompts))
        common = {
            "task": "rollout", "rows": str(file), "model": chosen.model, "threads": chosen.threads, "batch": 64,
            "micro_batch": None, "seed": chosen.seed, "profile": False, "repeats": 1,
        }  # fmt: skip
        result: dict[str, Any] = {"precision": chosen.precision, "peer": chosen.peer, "same": _agree(common)}
        if not result["same"]:
            print("The two sides do not write the same greedy tokens, so they are not timed.", file=sys.stderr)
            return result
        for name, setting in asked.items():
            job = {**common, **setting, "limit": setting["prompts"]}
            if name in ALONE:
                ours = {"contender": "sawyer", "precision": chosen.precision, "alone": name}
                result[name] = measure.in_own_process({**job, **ours})
                print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in result[name].items()), flush=True)
            else:
                result[name] = _setting(name, job, chosen)
                _show(name, result[name])
    return result


def _setting(name: str, job: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """One setting: rounds of all contenders, and the ratios."""
    who = [("sawyer", chosen.precision), ("hf", "bf16"), ("hf", "fp32")]
    if chosen.peer == "ctranslate2":
        who = [*who[:1], ("ctranslate2", "int8")]
    turns: dict[str, list[dict[str, Any]]] = {f"{contender}-{precision}": [] for contender, precision in who}
    peaks = []
    for turn in range(chosen.rounds):
        peaks.append(measure.in_own_process({**job, "contender": "peak", "precision": chosen.precision}))
        for contender, precision in who:
            done = measure.in_own_process({**job, "contender": contender, "precision": precision})
            turns[f"{contender}-{precision}"].append(done)
            rate = sum(done["tokens"]) / sum(done["seconds"])
            print(f"{name} round {turn + 1}/{chosen.rounds}  {contender}-{precision:6}{rate:8.0f} tokens/s", flush=True)
    speeds = {
        key: median(sum(done["tokens"]) / sum(done["seconds"]) for done in results) for key, results in turns.items()
    }
    ours = f"sawyer-{chosen.precision}"
    fastest = max((key for key in speeds if key != ours), key=lambda key: speeds[key])
    mine = turns[ours]
    peak = max(done["flops_per_second"] for done in peaks)
    share = median(done["flops"] / done["seconds"][-1] for done in mine) / peak
    return {
        "speed_ratio": speeds[ours] / speeds[fastest],
        "peak_share": share,
        "fastest_peer": fastest,
        "tokens_per_second": speeds,
        "memory_over_needed": max(done["memory_bytes"] / done["needed_bytes"] for done in mine),
        "peak_flops_per_second": peak,
        "tokens": {key: [done["tokens"] for done in results] for key, results in turns.items()},
        "seconds": {key: [done["seconds"] for done in results] for key, results in turns.items()},
    }


def _agree(common: dict[str, Any]) -> bool:
    """Whether both sides write the same greedy tokens in fp32."""
    job = {**common, **SETTINGS["greedy"], "limit": 4, "precision": "fp32"}
    job |= {"min_tokens": AGREE_TOKENS, "max_tokens": AGREE_TOKENS}
    ours, theirs = (measure.in_own_process({**job, "contender": name}) for name in ("sawyer", "hf"))
    return ours["completions"] == theirs["completions"]


def _prompts(model: str, count: int) -> list[list[int]]:
    from sawyer.data.chat import ChatFormat
    from sawyer.data.verifiable import make_prompts
    from sawyer.models.load import load_tokenizer

    chat = ChatFormat(load_tokenizer(model), default="plain")
    return [chat.prompt_ids(prompt.prompt) for prompt in make_prompts(count, "test")]


def _show(name: str, figures: dict[str, Any]) -> None:
    print(
        f"{name}: sawyer is {figures['speed_ratio']:.2f} times as fast as {figures['fastest_peer']}, at "
        f"{figures['peak_share']:.2f} of this machine's matrix peak, in {figures['memory_over_needed']:.2f} times the "
        "memory of weights and cache",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
