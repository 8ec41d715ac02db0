"""The loss of each training stage over a packed row of trees, with the figures worth a curve beside it.

Shapes: N scored tokens, C completions, R trees of K completions, best first.
"""

from __future__ import annotations

import torch

from sawyer.losses import preference, reward
from sawyer.train.loop import Objective, Terms
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TreeBatch

REFERENCE = "reference_logp"
"""The name under which trees carry each completion's log-prob under the reference."""


def sft() -> Objective:
    """Negative log-likelihood of the scored tokens, a mean over all tokens of the update."""

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        return {"loss": -model(batch).sum()}

    return Objective(terms, unit="token")


def reward_model(*, centring: float = 0.0) -> Objective:
    """Bradley-Terry on pairs, Plackett-Luce on rankings of more than two; reports accuracy of best against worst.

    Rankings of different lengths may share a row.
    """

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        reward_by_tree = model(batch).split([len(tree.completions) for tree in batch.layout.trees])
        sums: Terms = {}
        for count in sorted({len(reward_K) for reward_K in reward_by_tree}):
            reward_R_K = torch.stack([reward_K for reward_K in reward_by_tree if len(reward_K) == count])
            for name, value in of_one_length(reward_R_K).items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def of_one_length(reward_R_K: torch.Tensor) -> Terms:
        if reward_R_K.shape[1] == 2:
            loss_R = reward.bradley_terry(reward_R_K[:, 0], reward_R_K[:, 1], centring=centring)
        else:
            loss_R = reward.plackett_luce(reward_R_K) + centring * reward_R_K.sum(1) ** 2
        margin_R = (reward_R_K[:, 0] - reward_R_K[:, -1]).detach()
        return {
            "loss": loss_R.sum(),
            "accuracy": (margin_R > 0).float().sum() + 0.5 * (margin_R == 0).float().sum(),
            "margin": margin_R.sum(),
            "reward": reward_R_K.detach().mean(1).sum(),
        }

    return Objective(terms)


def dpo(*, beta: float = 0.1, label_smoothing: float = 0.0) -> Objective:
    """DPO on pairs that carry their reference log-probs; rewards are beta times the log-ratio to the reference."""

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        logp_R_K = batch.by_tree(batch.sum_by_completion(model(batch)))
        reference_R_K = batch.by_tree(batch.values[REFERENCE])
        loss_R = preference.dpo(
            logp_R_K[:, 0], logp_R_K[:, 1], reference_R_K[:, 0], reference_R_K[:, 1],
            beta=beta, label_smoothing=label_smoothing,
        )  # fmt: skip
        reward_R_K = beta * (logp_R_K - reference_R_K).detach()
        margin_R = reward_R_K[:, 0] - reward_R_K[:, 1]
        return {
            "loss": loss_R.sum(),
            "accuracy": (margin_R > 0).float().sum(),
            "margin": margin_R.sum(),
            "reward_chosen": reward_R_K[:, 0].sum(),
            "reward_rejected": reward_R_K[:, 1].sum(),
            "logp_chosen": logp_R_K[:, 0].detach().sum(),
            "logp_rejected": logp_R_K[:, 1].detach().sum(),
        }

    return Objective(terms)
