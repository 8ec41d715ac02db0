"""All benchmarks, each with its figures in `benchmarks/results/`: training, online steps, PPO and scoring in both
precisions, rankings and generation in bf16.

Arguments go to each of them: `python -m benchmarks --pairs 64`; to online steps, PPO, scoring and generation only those
that they know too: `--data`, `--model`, `--rounds`, `--seed`, `--threads`. Takes many hours on two cores.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import online, ppo, rollout, scoring
from benchmarks.contest import main

RESULTS = Path(__file__).parent / "results"
SHARED = ("--data", "--model", "--rounds", "--seed", "--threads")
PRECISIONS = ("fp32", "bf16")


def run_all(arguments: list[str]) -> int:
    """The worst exit code of all; a mistake to mend (2) ends it."""
    worst = 0
    for name, run, own in _benchmarks(arguments):
        print(f"\n{name}", flush=True)
        code = run([*own, "--json", str(RESULTS / f"{name}.json")])
        if code == 2:
            return code
        worst = max(worst, code)
    return worst


def _benchmarks(arguments: list[str]) -> Iterator[tuple[str, Callable[[list[str]], int], list[str]]]:
    """Each benchmark's name, which is its file's, what runs it, and its arguments."""
    shared = _shared(arguments)
    for task in ("dpo", "reward", "sft"):
        for precision in PRECISIONS:
            yield f"{task}-{precision}", partial(main, task), [*arguments, "--precision", precision]
    for size in ("4", "7"):
        own = ["--pairs", "16", *arguments, "--precision", "bf16", "--ranking", size]
        yield f"reward-ranking-{size}", partial(main, "reward"), own
    for precision in PRECISIONS:
        yield f"online-{precision}", online.main, [*shared, "--precision", precision]
    for precision in PRECISIONS:
        yield f"ppo-{precision}", ppo.main, [*shared, "--precision", precision]
    for precision in PRECISIONS:
        yield f"scoring-{precision}", scoring.main, [*shared, "--precision", precision]
    for peer in ("hf", "ctranslate2"):
        yield f"rollout-{peer}", rollout.main, [*shared, "--peer", peer]


def _shared(arguments: list[str]) -> list[str]:
    """The arguments that all benchmarks take."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in SHARED:
        parser.add_argument(name)
    known, _ = parser.parse_known_args(arguments)
    return [part for name, value in vars(known).items() if value is not None for part in (f"--{name}", value)]


if __name__ == "__main__":
    sys.exit(run_all(sys.argv[1:]))
