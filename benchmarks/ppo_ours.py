"""Sawyer's side of `benchmarks.ppo`: `sawyer.train.ppo.train`, as stage `ppo` calls it, with a value model of its own.

What the stage does around it with texts is not here: prompts and answers are tokens on both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.work import Row
from sawyer.data.chat import ChatFormat
from sawyer.journal import Silent
from sawyer.methods.collapse import CollapseSettings
from sawyer.methods.kl_control import KLSettings
from sawyer.models.load import load_policy, load_sequence_classifier, load_tokenizer
from sawyer.models.precision import cast
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.train import ppo
from sawyer.train.optim import MasterWeights
from sawyer.train.ppo_batch import Rollout
from sawyer.train.ppo_settings import PPOSettings, ValueSettings
from sawyer.train.ppo_state import Memory
from sawyer.trees.actor import ActorCritic, TreeCritic, read_tokens
from sawyer.trees.model import TreePolicy, TreeReward
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree

Answers = list[list[tuple[Sequence[int], Sequence[float]]]]
"""Of each prompt: tokens, and the log-probs that they were drawn with."""


def run(job: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Update as `job` says and return what it took and what came out; see `ppo.py` for both."""
    world = _World(job, rows)
    settings = PPOSettings(
        steps=job["updates"],
        batch_size=len(rows),
        n=job["n"],
        epochs=1 if job["given"] else job["epochs"],
        kl=KLSettings(coefficient=job["kl"]),
        value=ValueSettings(model="own"),
        learning_rate=job["learning_rate"],
        schedule="constant",
        warmup_ratio=0.0,
        max_grad_norm=1e9,  # TRL's PPO does not clip
        token_budget=job["token_budget"],
        validate_every=None,
        checkpoint_every=10**9,
        collapse=CollapseSettings(action="warn"),
    )
    if job["given"]:
        return _on_given(world, settings, job)
    with tempfile.TemporaryDirectory() as folder:
        ppo.train(
            world.actor, world.reference, world, settings, max_tokens=job["tokens"], precision=job["precision"],
            seed=job["seed"], journal=Silent(), title="ppo", scratch=Path(folder),
        )  # fmt: skip
    return world.figures()


def _on_given(world: _World, settings: PPOSettings, job: dict[str, Any]) -> dict[str, Any]:
    """`epochs` steps on the given answers, by the parts that `train` is made of."""
    weights = MasterWeights(world.actor, settings, job["precision"], apart=ActorCritic.is_critic)
    began = time.perf_counter()
    batch = ppo.read(world.actor, world.reference, world.roll_out(0), settings)
    advantage_N, return_N = ppo.estimate(batch, settings, job["kl"], Memory(settings))
    steps = [
        ppo.learn(
            world.actor, batch, advantage_N, return_N, settings, weights, step=0, beta=job["kl"], seed=job["seed"],
            max_tokens=job["tokens"], accelerator=None, kept=str, title="ppo",
        )
        for _ in range(job["epochs"])
    ]  # fmt: skip
    world.ends.append(time.perf_counter() - began)
    return {
        **world.figures(),
        "update_seconds": world.ends,
        "values": [own.tolist() for own in advantage_N.split(job["tokens"])],
        "losses": [figures["loss"] for figures in steps],
        "grad_norms": [figures["grad_norm"] for figures in steps],
    }


def _given(rows: Sequence[Row]) -> Answers:
    """The completions of the rows, in place of what a policy draws."""
    return [[(ids, [0.0] * len(ids)) for ids in row["completions"]] for row in rows]


class _World:
    """The models, and what the policy is trained in: the same prompts at every step. An update lasts from the call for
    its answers to that of the next, or to the validation after the last."""

    def __init__(self, job: dict[str, Any], rows: Sequence[Row]) -> None:
        self.job, self.rows = job, rows
        policy: Any = load_policy(job["policy"])
        chat = ChatFormat(load_tokenizer(job["policy"]), default="plain")
        self.engine = TorchEngine(policy, chat, precision=job["precision"])
        critic = TreeCritic(load_sequence_classifier(job["reward"]))
        self.actor = ActorCritic(policy, critic)
        self.frozen = TreePolicy(self._frozen(load_policy(job["reference"]))).eval()
        self.judge = TreeReward(self._frozen(load_sequence_classifier(job["reward"]))).eval()
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.rollout_seconds: list[float] = []
        self.response_tokens: list[int] = []

    def _frozen(self, model: Any) -> Any:
        cast(model, self.job["precision"])
        return model

    def reference(self, trees: Sequence[TokenTree]) -> torch.Tensor:
        """Log-probs `[N]` under the reference."""
        (logp_N,) = read_tokens(lambda batch: (self.frozen(batch),), trees, self.job["token_budget"], "cpu")
        assert logp_N is not None
        return logp_N

    def roll_out(self, step: int) -> Rollout:
        began = time.perf_counter()
        if self.begins:
            self.ends.append(began - self.begins[-1])
        self.begins.append(began)
        answers = _given(self.rows) if self.job["given"] else self._drawn(step)
        self.rollout_seconds.append(time.perf_counter() - began)
        self.response_tokens.append(sum(len(ids) for own in answers for ids, _ in own))
        return self._judged(self.rows, answers)

    def validate(self, step: int) -> Rollout:
        if self.begins:
            self.ends.append(time.perf_counter() - self.begins[-1])
        return self._judged(self.rows[:1], _given(self.rows[:1]))

    def went_back(self) -> None:
        raise AssertionError("a benchmark does not go back")

    def state(self) -> Mapping[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("a benchmark is not continued")

    def figures(self) -> dict[str, Any]:
        """What the updates took."""
        return {
            "update_seconds": self.ends,
            "rollout_seconds": self.rollout_seconds,
            "response_tokens": self.response_tokens,
        }

    def _drawn(self, step: int) -> Answers:
        self.engine.load(self.actor.core.state_dict())
        sampling = Sampling(min_tokens=self.job["tokens"], max_tokens=self.job["tokens"])
        prompts = [row["prompt"] for row in self.rows]
        drawn = self.engine.generate_ids(prompts, sampling, self.job["n"], seed=self.job["seed"] * 1_000_003 + step)
        return [[(one.ids, one.logps) for one in own] for own in drawn]

    def _judged(self, rows: Sequence[Row], answers: Answers) -> Rollout:
        trees = [
            TokenTree(row["prompt"], [list(ids) for ids, _ in own]) for row, own in zip(rows, answers, strict=True)
        ]
        scores = score_trees(self.judge, trees, token_budget=self.job["token_budget"])
        figures = {"completion_tokens": float(self.job["tokens"]), "finished": 1.0, "distinct_2": 1.0}
        return Rollout(
            trees,
            torch.tensor([score for own in scores for score in own]),
            torch.tensor([logp for own in answers for _, logps in own for logp in logps]),
            True,  # but for the end tokens, which neither side draws
            figures,
        )
