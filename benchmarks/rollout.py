"""Generation against `generate()` of transformers or CTranslate2: `python -m benchmarks.rollout --peer hf --json FILE`.

| setting | what is generated |
|---|---|
| `fixed` | 8 prompts x 8 samples of exactly 64 tokens |
| `natural` | 16 prompts x 8 samples which end when they end, of at most 256 tokens; with `--data`, prompts of HH-RLHF |
| `greedy` | one prompt, one greedy completion of exactly 64 tokens |
| `refresh` | nothing: seconds until the engine has taken a trainer's float32 weights |
| `queue` | 500 and 10,000 prompts, one sample of exactly 16 tokens each |

The last two are of ours alone, and made only where `--settings` asks for them. Where nothing else is said, prompts are
those of the verifiable task.

Contenders alternate, each turn in a process of its own; ours computes in `--precision`. The peer is taken at its best,
for each setting apart: `generate()` runs in bf16 and in fp32 on the whole setting at once, and the faster counts;
CTranslate2 runs once in every type that it has on this CPU (int8 is always among them), then as one batch in all
threads and as one batch in each, of 16 to 128 sequences, and the fastest of all takes the turns. First the sides must
agree: the same greedy tokens in fp32.

The file that `--json` writes is an object keyed by setting and by nothing else. Every setting has `speed_ratio` (new
tokens a second, ours over the peer's), `peak_share` (matrix products over time, as a share of the machine's fastest),
both null where there is no peer or the sides do not agree, and `run`: command, precision, peer, `same`, versions and
hardware.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import command, generators, measure, work
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
AGREE_TOKENS, AGREE_PROMPTS = 16, 4
BATCHES = (16, 32, 64, 128)
"""Sequences in a batch of CTranslate2."""
MOST_MEMORY = 1.2
"""What Sawyer promises: at most so many times its weights and its cache."""

Job = dict[str, Any]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(
        "rollout",
        peer=("hf", "hf or ctranslate2"),
        precision=("bf16", "what ours computes in"),
        data="an HH-RLHF file, for the prompts of natural; without it, verifiable prompts",
        seed="seed of the draws",
    )
    known = ", ".join(ALONE)
    parser.add_argument("--settings", default=",".join(SETTINGS), help=f"which to measure; there are {known} too")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 0, 1 (the sides do not agree) or 2 (a mistake to mend)."""
    return command.main(
        "rollout",
        options(),
        run,
        lambda result: 0 if all(figures["run"]["same"] for figures in result.values()) else 1,
        arguments,
        signed=lambda result: [figures["run"] for figures in result.values()],
    )


def run(chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of every setting, by name.

    Raises:
        SawyerError: the peer is not installed, a setting is unknown, the model or the data cannot be had.
    """
    generators.require(chosen.peer)
    names = chosen.settings.split(",")
    unknown = [name for name in names if name not in SETTINGS and name not in ALONE]
    if unknown:
        raise SawyerError(f"there is no setting {unknown[0]!r}: choose of {', '.join([*SETTINGS, *ALONE])}")
    if chosen.rounds < 1:
        raise SawyerError("--rounds must be at least 1")
    asked = {name: (SETTINGS | ALONE)[name] for name in names}
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "prompts.json")
        count = max(AGREE_PROMPTS, *(setting["prompts"] for setting in asked.values()))
        file.write_text(json.dumps(verifiable_prompts(chosen.model, count)))
        real = Path(folder, "real.json")
        if chosen.data is not None and "natural" in asked:
            real.write_text(json.dumps(real_prompts(chosen.model, asked["natural"]["prompts"], chosen.data)))
        common = {
            "task": "rollout", "rows": str(file), "model": chosen.model, "threads": chosen.threads, "micro_batch": None,
            "seed": chosen.seed, "profile": False, "repeats": 1, "converted": folder,
        }  # fmt: skip
        about = {**_about(chosen), "same": _agree(common, chosen.peer)}
        if not about["same"]:
            print("The two sides do not write the same greedy tokens, so they are not timed.", file=sys.stderr)
        for name, setting in asked.items():
            job = {**common, **setting, "limit": setting["prompts"]}
            if name == "natural" and real.exists():
                job["rows"] = str(real)
            figures: dict[str, Any] = {"speed_ratio": None, "peak_share": None}
            if about["same"] and name in ALONE:
                ours = {"contender": "sawyer", "precision": chosen.precision, "alone": name}
                own = measure.in_own_process({**job, **ours})
                figures |= own
                print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in own.items()), flush=True)
            elif about["same"]:
                figures |= _setting(name, job, chosen)
                _show(name, figures)
            result[name] = {**figures, "run": dict(about)}
    return result


def _setting(name: str, job: Job, chosen: argparse.Namespace) -> dict[str, Any]:
    """One setting: rounds of all contenders, and the ratios."""
    ours = f"sawyer-{chosen.precision}"
    tried: dict[str, float] = {}
    contenders = {ours: {"contender": "sawyer", "precision": chosen.precision}}
    if chosen.peer == "ctranslate2":
        for key, tuned in _tunings(job, tried):
            tried[key] = _rate(measure.in_own_process({**job, **tuned}))
            print(f"{name}  {key:32}{tried[key]:8.0f} tokens/s", flush=True)
            if tried[key] == max(tried.values()):
                best = key, tuned
        contenders[best[0]] = best[1]
    else:
        contenders |= {f"hf-{kind}": {"contender": "hf", "precision": kind} for kind in ("bf16", "fp32")}
    turns: dict[str, list[dict[str, Any]]] = {key: [] for key in contenders}
    peaks = []
    for turn in range(chosen.rounds):
        peaks.append(measure.in_own_process({**job, "contender": "peak", "precision": chosen.precision}))
        for key, who in contenders.items():
            turns[key].append(measure.in_own_process({**job, **who}))
            rate = _rate(turns[key][-1])
            print(f"{name} round {turn + 1}/{chosen.rounds}  {key:32}{rate:8.0f} tokens/s", flush=True)
    speeds = {key: median(map(_rate, results)) for key, results in turns.items()}
    fastest = max((key for key in speeds if key != ours), key=lambda key: speeds[key])
    mine = turns[ours]
    peak = max(done["flops_per_second"] for done in peaks)
    return {
        "speed_ratio": speeds[ours] / speeds[fastest],
        "peak_share": median(done["flops"] / done["seconds"][-1] for done in mine) / peak,
        "memory_over_needed": max(done["memory_bytes"] / done["needed_bytes"] for done in mine),
        "tokenizer_mib": max(done["tokenizer_bytes"] for done in mine) / 2**20,
        "fastest_peer": fastest,
        "tokens_per_second": speeds,
        "tried_once": tried,
        "peak_flops_per_second": peak,
        "tokens": {key: [done["tokens"] for done in results] for key, results in turns.items()},
        "seconds": {key: [done["seconds"] for done in results] for key, results in turns.items()},
    }


def _tunings(job: Job, tried: dict[str, float]) -> Iterator[tuple[str, Job]]:
    """The ways of CTranslate2 to try, each with a name: types first, then layouts and batches of the fastest type.

    Args:
        tried: what the ways yielded so far have come to, to be filled by the caller.
    """
    sequences = job["prompts"] * job["n"]
    batches = sorted({min(size, sequences) for size in BATCHES})
    layouts = [(1, job["threads"])] + [(job["threads"], 1)] * (job["threads"] > 1 and sequences > 1)

    def way(kind: str, layout: tuple[int, int], batch: int) -> tuple[str, Job]:
        tuned = {"contender": "ctranslate2", "precision": kind, "layout": layout, "sequences": batch}
        return f"ctranslate2-{kind}-{layout[0]}x{layout[1]}-{batch}", tuned

    first = [way(kind, layouts[0], batches[-1]) for kind in generators.compute_types()]
    yield from first
    kind = dict(first)[max(tried, key=lambda key: tried[key])]["precision"]
    for layout in layouts:
        for batch in batches:
            key, tuned = way(kind, layout, batch)
            if key not in tried:
                yield key, tuned


def _rate(done: dict[str, Any]) -> float:
    return sum(done["tokens"]) / sum(done["seconds"])


def _agree(common: Job, peer: str) -> bool:
    """Whether ours, transformers and the peer write the same greedy tokens in fp32."""
    job = {**common, **SETTINGS["greedy"], "limit": AGREE_PROMPTS, "precision": "fp32"}
    job |= {"min_tokens": AGREE_TOKENS, "max_tokens": AGREE_TOKENS}
    job |= {"layout": (1, common["threads"]), "sequences": AGREE_PROMPTS}
    names = dict.fromkeys(("sawyer", "hf", peer))
    first, *others = (measure.in_own_process({**job, "contender": name})["completions"] for name in names)
    return all(other == first for other in others)


def verifiable_prompts(model: str, count: int) -> list[list[int]]:
    """Prompts of the verifiable task, as the model's chat format writes them."""
    from sawyer.data.chat import ChatFormat
    from sawyer.data.verifiable import make_prompts
    from sawyer.models.load import load_tokenizer

    chat = ChatFormat(load_tokenizer(model), default="plain")
    return [chat.prompt_ids(prompt.prompt) for prompt in make_prompts(count, "test")]


def real_prompts(model: str, count: int, data: Path) -> list[list[int]]:
    """Prompts of an HH-RLHF file.

    Raises:
        SawyerError: as `work.hh_pairs`.
    """
    from sawyer.models.load import load_tokenizer

    return [pair["prompt"] for pair in work.hh_pairs(data, count, load_tokenizer(model), work.LONGEST_PAIR)]


def _about(chosen: argparse.Namespace) -> dict[str, Any]:
    """What was run, where and when."""
    return {
        "precision": chosen.precision,
        "peer": chosen.peer,
        "model": chosen.model,
        "data": chosen.data.name if chosen.data else "verifiable",
        "rounds": chosen.rounds,
        "threads": chosen.threads,
        "seed": chosen.seed,
        **command.circumstances(*(["ctranslate2"] if chosen.peer == "ctranslate2" else [])),
    }


def _show(name: str, figures: dict[str, Any]) -> None:
    memory = figures["memory_over_needed"]
    print(
        f"{name}: sawyer is {figures['speed_ratio']:.2f} times as fast as {figures['fastest_peer']}, at "
        f"{figures['peak_share']:.2f} of this machine's matrix peak, in {memory:.2f} times the memory of weights and "
        f"cache, which is {'within' if memory <= MOST_MEMORY else 'MORE than'} the {MOST_MEMORY} that is promised",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
