"""Tiny models, and toy data that can be learned in a few updates."""

from collections.abc import Callable

import pytest
import torch

from sawyer.journal import Silent
from sawyer.models.adapters import Trainable
from sawyer.models.heads import attach_fresh_head
from sawyer.train import ppo
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.actor import ActorCritic
from sawyer.trees.model import TreePolicy, TreeReward
from sawyer.trees.tree import TokenTree
from tests.train.ppo_toy import Toy, reference_of, settings_of


@pytest.fixture(scope="session")
def toy() -> Callable[..., list[TokenTree]]:
    """`toy(n, k)`: n trees of k completions; the first of each is made of low tokens, the last of high ones."""

    def build(n: int = 24, k: int = 2, seed: int = 0, values: tuple[str, ...] = ()) -> list[TokenTree]:
        g = torch.Generator().manual_seed(seed)

        def tokens(low: int, high: int, most: int) -> list[int]:
            length = int(torch.randint(2, most, (1,), generator=g))
            return torch.randint(low, high, (length,), generator=g).tolist()

        bands = [(10 + 40 * i, 40 + 40 * i) for i in range(k)]
        return [
            TokenTree(
                tokens(10, 300, 8),
                [tokens(*band, 9) for band in bands],
                values={name: [-30.0 - 2 * i for i in range(k)] for name in values},
            )
            for _ in range(n)
        ]

    return build


@pytest.fixture
def policy(tiny_policy) -> Callable[..., TreePolicy]:
    """`policy(arch)`: a fresh tiny policy over trees, always the same weights."""
    return lambda arch="llama": TreePolicy(tiny_policy(arch))


@pytest.fixture
def reward(tiny_policy) -> Callable[..., TreeReward]:
    """`reward()`: a fresh tiny reward model over trees, always the same weights."""
    return lambda arch="llama": TreeReward(attach_fresh_head(tiny_policy(arch)))


@pytest.fixture(scope="session")
def optimizer() -> Callable[..., OptimizerSettings]:
    """`optimizer(**changes)`: settings for the toys."""

    def build(**changes) -> OptimizerSettings:
        return OptimizerSettings(**{"learning_rate": 1e-3, "batch_size": 6, "token_budget": 64, "steps": 6, **changes})

    return build


@pytest.fixture
def trial(tiny_policy, tmp_path):
    """`trial(**settings)`: PPO of a fresh tiny policy; the actor, its world, the journal and what came out."""
    count = []

    def run(journal=None, scratch=None, critic="default", world=None, precision="fp32", seed=3, **changes):
        settings = settings_of(**changes)
        count.append(1)
        model = tiny_policy("llama")
        if settings.lora is not None:
            model = Trainable(lambda: tiny_policy("llama"), settings.lora, seed=1).model
        if critic == "default":
            critic = settings.value.model if settings.estimated.values else None
        actor, reference = ActorCritic(model, critic), reference_of(tiny_policy("llama"))
        toy = Toy(actor, **(world or {}))
        journal = journal or Silent()
        trained = ppo.train(
            actor, reference, toy, settings, max_tokens=8, precision=precision, seed=seed, journal=journal,
            title="ppo", scratch=scratch or tmp_path / f"scratch-{len(count)}",
        )  # fmt: skip
        return actor, toy, journal, trained

    return run
