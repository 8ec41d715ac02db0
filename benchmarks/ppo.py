"""One PPO update of the same size, against TRL's PPOTrainer: `python -m benchmarks.ppo --peer trl --json FILE`.

An update is all of it: prompts are answered, the answers scored by the reward model, log-probs taken of policy and
reference, values of the value model, advantages computed, and policy and value model trained on them for `--epochs`,
one optimiser step each over the whole batch. Policy, reference, reward model and value model are four models of the
same size on both sides, policy and value model trained in all their weights. Every answer has `--tokens` tokens.

TRL dropped PPO in 2026: the peer is 1.12.0, the newest that has it (`trl.experimental.ppo`), in an environment of its
own, which `--install` makes. Where there is none, the command says so and takes a plain loop over transformers instead
(`--peer transformers`).

The peer counts at its fastest: its micro-batches are tried once each (in bf16 TRL's two ways to compute in it, too),
and the fastest takes turns with ours, each in a fresh process. Before the turns, both sides take two steps on the same
given rollouts: their advantages, losses and gradient norms must agree (`sameness.py`), or no ratio is reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import command, measure, peer_environment, sameness, work
from sawyer.errors import SawyerError

PROMPT_TOKENS = 0.4
"""Spread of the logarithm of the generated prompts' lengths."""
GIVEN_EPOCHS = 2
REFERENCE_NOISE = 0.01
"""How far, relatively, the reference's weights lie from the policy's, so that the KL between them is not 0."""
Job = dict[str, Any]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = command.parser(
        "ppo",
        peer=("trl", f"trl ({peer_environment.TRL}, in its own environment) or transformers"),
        data="an HH-RLHF file, for its prompts instead; without it, text of --prompt-tokens",
        seed="seed of the generated work, the draws and the reward head",
    )
    command.add_budget(parser)
    add = parser.add_argument
    add("--peer-environment", type=Path, help="TRL's environment; without it, one in the user's cache")
    add("--install", action="store_true", help="make TRL's environment first, if it is not there")
    add("--prompts", type=int, default=16, help="prompts in an update")
    add("--n", type=int, default=1, help="answers to each prompt")
    add("--prompt-tokens", type=int, default=64, help="mean length of a prompt")
    add("--tokens", type=int, default=48, help="tokens of every answer")
    add("--epochs", type=int, default=1, help="passes over the answers of an update")
    add("--updates", type=int, default=2, help="updates in a turn; one more comes first and is not timed")
    add("--micro-batches", default="1,2,4,8,16", help="the peer's micro-batches to try")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 0, 1 (the sides do not compute the same thing) or 2 (a mistake to mend)."""
    return command.main("ppo", options(), run, command.compared(command.show_ratios), arguments)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's report, whose ratios are null if the contenders do not compute the same thing.

    Raises:
        SawyerError: the peer is unknown or cannot be installed, a size is not a positive number or does not divide, or
            model or data cannot be had.
    """
    sizes = _checked(chosen)
    peer, python = _peer(chosen)
    names = [f"{peer}-{size}" for size in sizes]
    if peer == "trl" and chosen.precision == "bf16":
        names += [f"trl-{size}-pure" for size in sizes]
    turns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = {**_models(chosen, Path(folder)), **_prompts(chosen, Path(folder)), "python": python}
        tried = {name: _turn({**job, "updates": 1}, name, "tried", warm_up=1) for name in ("sawyer", *names)}
        fastest = min(names, key=lambda name: tried[name]["update_seconds"][-1])
        verdict = _sameness(job, fastest, peer, chosen)
        for turn in range(chosen.rounds if verdict["same"] else 0):
            for name in ("sawyer", fastest):
                done = _turn(job, name, f"round {turn + 1}/{chosen.rounds}", warm_up=1)
                turns.setdefault(name, []).append(done)
    return {
        **_figures(turns, fastest),
        "tried_once": {
            name: {"seconds": one["update_seconds"][-1], "peak_memory_mib": one["peak_memory_mib"]}
            for name, one in tried.items()
        },
        "task": "ppo",
        "peer": peer,
        **{
            name: getattr(chosen, name)
            for name in ("precision", "prompts", "n", "tokens", "epochs", "updates", "rounds", "threads", "model")
        },
        "data": chosen.data.name if chosen.data else "generated",
        "prompt_tokens": job["prompt_tokens"],
        "sameness": verdict,
        **command.circumstances(**({"trl": peer_environment.TRL} if peer == "trl" else {})),
    }


def _checked(chosen: argparse.Namespace) -> list[int]:
    """The micro-batches."""
    sizes = command.sizes(chosen.micro_batches, "--micro-batches", "1,4,16")
    for name in ("prompts", "n", "prompt_tokens", "tokens", "epochs", "updates", "rounds"):
        if getattr(chosen, name) < 1:
            raise SawyerError(f"--{name.replace('_', '-')} must be at least 1")
    if chosen.prompts * chosen.n < 2:
        raise SawyerError("one answer alone has no advantage over others; give more --prompts or --n")
    if chosen.tokens < 2:
        raise SawyerError("--tokens must be at least 2")
    if any(size < 1 or chosen.prompts * chosen.n % size for size in sizes):
        raise SawyerError(
            f"every one of --micro-batches must divide the {chosen.prompts * chosen.n} answers of an update"
        )
    return sizes


def _peer(chosen: argparse.Namespace) -> tuple[str, str]:
    """Who is measured against, and the Python that runs it; says so if that is not who was asked for."""
    if chosen.peer not in ("trl", "transformers"):
        raise SawyerError(f"there is no peer called {chosen.peer!r}: choose trl or transformers")
    if chosen.peer == "transformers":
        return "transformers", sys.executable
    folder = peer_environment.place(chosen.peer_environment)
    problem = peer_environment.missing(folder)
    if problem is not None and chosen.install:
        print(f"installing TRL {peer_environment.TRL} into {folder}", flush=True)
        peer_environment.install(folder)
        problem = None
    if problem is None:
        return "trl", str(peer_environment.interpreter(folder))
    print(f"{problem}; comparing with a plain transformers loop instead.", file=sys.stderr, flush=True)
    return "transformers", sys.executable


def _models(chosen: argparse.Namespace, folder: Path) -> Job:
    """Policy, reference and reward model as folders that both sides load, their weights rounded to bf16."""
    import torch

    from sawyer.data.chat import ChatFormat
    from sawyer.models.load import load_policy, load_sequence_classifier, load_tokenizer
    from sawyer.models.save import save_model

    tokenizer = load_tokenizer(chosen.model)
    makers = {
        "policy": lambda: load_policy(chosen.model),
        "reference": lambda: _shifted(load_policy(chosen.model), chosen.seed),
        "reward": lambda: load_sequence_classifier(chosen.model, fresh_head=True, seed=chosen.seed),
    }
    for name, make in makers.items():
        save_model(make().to(torch.bfloat16), tokenizer, folder / name)
    chat = ChatFormat(tokenizer, default="plain")
    return {
        **{name: str(folder / name) for name in makers},
        "pad_id": chat.pad_id,
        "never": sorted({chat.pad_id, *chat.stop_ids}),
    }


def _shifted(model: Any, seed: int) -> Any:
    """The model with every weight a little off."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + REFERENCE_NOISE * torch.randn(weight.shape, generator=draw))
    return model


def _prompts(chosen: argparse.Namespace, folder: Path) -> Job:
    """The rest of a job: prompts, the answers that are given where sameness is asked, and the sizes."""
    import random

    from sawyer.models.load import load_tokenizer

    tokenizer = load_tokenizer(chosen.model)
    rng = random.Random(chosen.seed)
    text = work.text(tokenizer)
    if chosen.data is None:
        sizes = work.lengths(chosen.prompts, (chosen.prompt_tokens, PROMPT_TOKENS), 4, 4 * chosen.prompt_tokens, rng)
        prompts = [work.stretch(text, size, rng) for size in sizes]
    else:
        pairs = work.hh_pairs(chosen.data, chosen.prompts, tokenizer, work.LONGEST_PAIR)
        prompts = [pair["prompt"] for pair in pairs]
    given = [[work.stretch(text, chosen.tokens, rng) for _ in range(chosen.n)] for _ in prompts]
    file = folder / "rows.json"
    file.write_text(json.dumps([{"prompt": p, "completions": c} for p, c in zip(prompts, given, strict=True)]))
    return {
        "task": "ppo", "rows": str(file), "limit": len(prompts), "precision": chosen.precision, "n": chosen.n,
        "tokens": chosen.tokens, "epochs": chosen.epochs, "updates": chosen.updates, "given": False, "kl": 0.05,
        "learning_rate": 1e-6, "token_budget": chosen.token_budget, "seed": chosen.seed, "threads": chosen.threads,
        "profile": False, "prompt_tokens": round(mean(map(len, prompts)), 1),
    }  # fmt: skip


def _who(name: str) -> Job:
    contender, *rest = name.split("-")
    return {
        "contender": contender,
        "micro_batch": int(rest[0]) if rest else None,
        "pure": "pure" in rest,
    }


def _turn(job: Job, name: str, when: str, warm_up: int = 0) -> dict[str, Any]:
    """One process; the first `warm_up` of its updates are not among its `update_seconds`."""
    python = job["python"] if name.startswith("trl") else sys.executable
    done = measure.in_own_process({**job, **_who(name), "updates": job["updates"] + warm_up, "python": python})
    short = [count for count in done["response_tokens"] if count != job["limit"] * job["n"] * job["tokens"]]
    if short:
        raise RuntimeError(f"{name} wrote {short[0]} tokens in an update, not as many as were asked for")
    done["update_seconds"], done["rollout_seconds"] = (
        done["update_seconds"][warm_up:],
        done["rollout_seconds"][warm_up:],
    )
    print(
        f"{when:10}{name:20}{mean(done['update_seconds']):8.2f} s / update, of which rollouts "
        f"{mean(done['rollout_seconds']):6.2f}{done['peak_memory_mib']:8.0f} MiB",
        flush=True,
    )
    return done


def _sameness(job: Job, fastest: str, peer: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same given rollouts; in bf16 each in fp32 too."""
    given = {**job, "given": True, "updates": 1, "epochs": GIVEN_EPOCHS}
    results = {name: _turn(given, name, "given") for name in ("sawyer", fastest)}
    truths = {}
    if chosen.precision == "bf16":
        exact = {**given, "precision": "fp32"}
        plain = fastest.removesuffix("-pure")
        truths = {name.partition("-")[0]: _turn(exact, name, "in fp32") for name in ("sawyer", plain)}
    return sameness.check("ppo", chosen.precision, results, truths)


def _figures(turns: dict[str, list[dict[str, Any]]], fastest: str) -> dict[str, Any]:
    """Medians of the turns' updates and the ratios, which are null without turns."""
    table = {
        name: {
            "seconds_per_update": median(s for one in results for s in one["update_seconds"]),
            "rollout_seconds": median(s for one in results for s in one["rollout_seconds"]),
            "peak_memory_mib": max(one["peak_memory_mib"] for one in results),
            "update_seconds_by_round": [one["update_seconds"] for one in results],
        }
        for name, results in turns.items()
    }
    ours, theirs = table.get("sawyer"), table.get(fastest)
    return {
        "speed_ratio": theirs["seconds_per_update"] / ours["seconds_per_update"] if ours and theirs else None,
        "memory_ratio": ours["peak_memory_mib"] / theirs["peak_memory_mib"] if ours and theirs else None,
        "fastest_peer": fastest,
        "contenders": table,
    }


if __name__ == "__main__":
    sys.exit(main())
