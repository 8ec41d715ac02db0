"""A short training that can be run as a program, killed, run again, and split over processes.

    python -m tests.train.resumable KIND FOLDER [--steps N] [--precision bf16]

It keeps checkpoints in FOLDER/scratch, its log in FOLDER/metrics.jsonl, and ends with FOLDER/weights.safetensors.
"""

import argparse
import os
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sawyer.journal import Silent
from sawyer.models.heads import attach_fresh_head
from sawyer.pipeline.metrics import MetricsLog
from sawyer.train import objectives
from sawyer.train.divergence import Divergence, sample
from sawyer.train.loop import train
from sawyer.train.moving import MovingReference
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.model import TreePolicy, TreeReward
from sawyer.trees.tree import TokenTree

OBJECTIVES = {
    "sft": objectives.sft, "dpo": objectives.dpo, "reward": objectives.reward_model, "moving": objectives.dpo,
}  # fmt: skip


class OnDisk(Silent):
    """A journal whose figures lie in a file, as a run's do."""

    def __init__(self, path: Path, writes: bool) -> None:
        self.metrics, self.writes = MetricsLog(path), writes

    def log(self, **figures) -> None:
        if self.writes:
            self.metrics.append(figures)

    def position(self) -> int:
        return self.metrics.position() if self.writes else 0

    def rewind(self, position: int) -> None:
        if self.writes:
            self.metrics.rewind(position)

    @contextmanager
    def progress(self, total, title, unit="step", start=0):
        yield self


def toys(n: int = 40) -> list[TokenTree]:
    g = torch.Generator().manual_seed(0)

    def tokens() -> list[int]:
        return torch.randint(3, 64, (int(torch.randint(2, 12, (1,), generator=g)),), generator=g).tolist()

    return [TokenTree(tokens(), [tokens(), tokens()], values={objectives.REFERENCE: [-20.0, -22.0]}) for _ in range(n)]


def model(kind: str) -> TreePolicy | TreeReward:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = LlamaForCausalLM(config)
    return TreeReward(attach_fresh_head(policy)) if kind == "reward" else TreePolicy(policy)


def run(kind: str, folder: Path, *, accelerator=None, precision: str = "fp32", **changes) -> None:
    torch.set_num_threads(1)
    settings = OptimizerSettings(**{"learning_rate": 1e-3, "batch_size": 6, "token_budget": 64, "eps": 1e-4, **changes})
    writes = accelerator is None or accelerator.is_main_process
    folder.mkdir(parents=True, exist_ok=True)
    objective, trees, companions = OBJECTIVES[kind](), toys(), []
    if kind == "moving":
        moving = MovingReference(2, 0.6)
        objective, trees = moving.against(objective), [TokenTree(tree.prompt, tree.completions) for tree in trees]
        kl = Divergence(sample(trees, 4, 0), 2, token_budget=settings.token_budget, file=folder / "kl", writes=writes)
        companions = [moving, kl]
    trained = train(
        model(kind), trees, objective, settings, precision=precision, seed=3, title=kind,
        journal=OnDisk(folder / "metrics.jsonl", writes), scratch=folder / "scratch", accelerator=accelerator,
        validation=toys(4), companions=companions,
    )  # fmt: skip
    if writes:
        save_file({name: value.contiguous() for name, value in trained.weights.masters.items()}, folder / "new")
        (folder / "new").rename(folder / "weights.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["sft"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[64])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args()
    accelerator = None
    if "WORLD_SIZE" in os.environ:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
    for kind in args.kinds:
        if kind == "ppo":
            from tests.train import ppo_toy

            ppo_toy.run(args.folder / kind, steps=args.steps, accelerator=accelerator)
            continue
        for budget in args.budgets:
            run(
                kind, args.folder / f"{kind}-{budget}", accelerator=accelerator, precision=args.precision,
                steps=args.steps, token_budget=budget, checkpoint_every=3,
            )  # fmt: skip
    if accelerator is not None:
        accelerator.end_training()
