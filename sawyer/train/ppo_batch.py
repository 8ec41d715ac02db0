"""A rollout as an update sees it: trees that carry a number for each token, dealt to mini-batches, and their loss.

Shapes: N tokens of completions, C completions, end to end and prompt after prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from sawyer.losses import kl, policy
from sawyer.methods.advantages import whiten
from sawyer.train.loop import Objective, Terms
from sawyer.train.ppo_settings import PPOSettings
from sawyer.trees.actor import ActorCritic
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TokenTree, TreeBatch

OLD, ADVANTAGE, WEIGHT, REFERENCE, VALUE, RETURN = (
    "old_logp",
    "advantage",
    "weight",
    "reference_logp",
    "value",
    "return",
)
"""The names under which trees carry what an update needs of their tokens."""


@dataclass(frozen=True)
class Rollout:
    """Answers of the policy, and what they earned.

    Attributes:
        trees: each prompt with its completions.
        reward_C: of each completion.
        drawn_logp_N: log-probs under the distribution that the tokens were drawn from.
        own: whether that is the policy's own distribution.
        figures: what is worth a curve, at least `completion_tokens`, `finished` and `distinct_2`.
    """

    trees: list[TokenTree]
    reward_C: torch.Tensor
    drawn_logp_N: torch.Tensor
    own: bool
    figures: dict[str, float]


@dataclass(frozen=True)
class Batch:
    """A rollout with what policy, reference and critic say of its tokens before the first update."""

    rollout: Rollout
    completion_index_N: torch.Tensor
    tree_index_C: torch.Tensor
    logp_N: torch.Tensor
    reference_logp_N: torch.Tensor
    value_N: torch.Tensor | None
    weight_N: torch.Tensor

    @property
    def kl(self) -> float:
        """Mean KL of a completion to the reference, in nats: the sum of k1 over its tokens."""
        k1_N = self.weight_N * kl.k1(self.logp_N, self.reference_logp_N)
        return float(k1_N.sum()) / len(self.tree_index_C)

    @property
    def log_ratio(self) -> float:
        """Mean of log pi - log ref over tokens, in nats."""
        return float((self.logp_N - self.reference_logp_N).mean())

    @property
    def entropy(self) -> float:
        """Mean entropy of a token, in nats: the mean of -log pi of what was drawn."""
        return -float((self.weight_N * self.logp_N).mean())


def clipped_objective(settings: PPOSettings, beta: float, *, warming: bool = False) -> Objective:
    """The loss of an update, on trees made by `carrying` and `weighted`: a mean over tokens of

        w max(-rho A, -clip(rho) A) + c_V value loss + beta KL - c_H entropy

    with the last two, and the KL only as a loss, where they have a weight. `warming` leaves the value loss alone. With
    w = pi / mu for answers of an older policy mu this is decoupled PPO: rho is clipped around the policy before the
    update, and w rho is the ratio to mu (Hilton et al. 2022, arXiv 2110.00641, equation 7).
    """
    kl_loss = settings.kl_as == "loss" and beta > 0

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        carried = batch.token_values
        seen = cast(ActorCritic, model).read(batch, entropy=settings.entropy > 0 and not warming, apart=warming)
        old_N, weight_N = carried[OLD], carried[WEIGHT]
        policy_N, clipped_N = policy.clipped_policy(
            seen.logp_N, old_N, carried[ADVANTAGE], clip=settings.clip, clip_high=settings.clip_high
        )
        figures: Terms = {"policy_loss": (weight_N * policy_N).sum()}
        loss = figures["policy_loss"]
        if kl_loss:
            kl_N = kl.ESTIMATORS[settings.kl_estimator](seen.logp_N, carried[REFERENCE])
            figures["kl_loss"] = (weight_N * kl_N).sum()
            loss = loss + beta * figures["kl_loss"]
        if seen.entropy_N is not None:
            figures["token_entropy"] = seen.entropy_N.sum()
            loss = loss - settings.entropy * (weight_N * seen.entropy_N).sum()
        if warming:
            loss = torch.zeros_like(loss)
        if seen.value_N is not None:
            clip = settings.value.clip
            value_N = policy.clipped_value(seen.value_N, carried[VALUE], carried[RETURN], clip=clip)
            figures["value_loss"] = value_N.sum()
            loss = loss + settings.value.coefficient * figures["value_loss"]
        figures["clip_fraction"] = clipped_N.sum()
        figures["policy_kl"] = kl.k3(old_N, seen.logp_N).sum()
        return {"loss": loss, **{name: value.detach() for name, value in figures.items()}}

    return Objective(terms, unit="token")


def carrying(batch: Batch, advantage_N: torch.Tensor, return_N: torch.Tensor | None) -> list[TokenTree]:
    """A rollout's trees with what an update needs of their tokens."""
    columns = {OLD: batch.logp_N, ADVANTAGE: advantage_N, REFERENCE: batch.reference_logp_N, WEIGHT: batch.weight_N}
    if return_N is not None and batch.value_N is not None:
        columns |= {VALUE: batch.value_N, RETURN: return_N}
    sizes = [tree.scored_tokens for tree in batch.rollout.trees]
    parts = {name: value_N.split(sizes) for name, value_N in columns.items()}
    return [
        replace(tree, token_values={name: own[i] for name, own in parts.items()})
        for i, tree in enumerate(batch.rollout.trees)
    ]


def weighted(trees: Sequence[TokenTree], average: str, max_tokens: int) -> list[TokenTree]:
    """The trees of a mini-batch, their `WEIGHT` changed so that a mean over its tokens becomes another mean: over
    completions of the mean (`completion`), the sum (`sum`) or the sum over `max_tokens` (`constant`) of theirs."""
    if average == "token":
        return list(trees)
    lengths = [[len(completion) for completion in tree.completions] for tree in trees]
    each = sum(map(sum, lengths)) / sum(map(len, lengths))
    made = []
    for tree, own in zip(trees, lengths, strict=True):
        length_N = torch.tensor(own).repeat_interleave(torch.tensor(own))
        weight_N = tree.token_values[WEIGHT] * each
        weight_N = weight_N / length_N if average == "completion" else weight_N
        weight_N = weight_N / max_tokens if average == "constant" else weight_N
        made.append(replace(tree, token_values={**tree.token_values, WEIGHT: weight_N}))
    return made


def whitened(trees: Sequence[TokenTree]) -> list[TokenTree]:
    """The trees of a mini-batch, their `ADVANTAGE` at mean 0 and deviation 1 over all of its tokens."""
    sizes = [tree.scored_tokens for tree in trees]
    parts = whiten(torch.cat([tree.token_values[ADVANTAGE] for tree in trees])).split(sizes)
    return [
        replace(tree, token_values={**tree.token_values, ADVANTAGE: own_N})
        for tree, own_N in zip(trees, parts, strict=True)
    ]


def mini_batches(count: int, settings: PPOSettings, seed: int, step: int) -> Iterator[list[int]]:
    """Indices of each update's trees: every epoch deals all of them anew."""
    for epoch in range(settings.epochs):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step * 1_009 + epoch) % 2**63)
        order = torch.randperm(count, generator=generator)
        for part in order.tensor_split(min(settings.mini_batches, count)):
            yield part.tolist()
