"""The loss of each training stage over a packed row of trees, with the figures worth a curve beside it.

Shapes: N scored tokens, C completions, R trees of K completions, best first.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from sawyer.losses import reward
from sawyer.train.loop import Objective, Terms
from sawyer.train.preference import REFERENCE, dpo
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TreeBatch

__all__ = ["MARGIN", "REFERENCE", "SCALE", "WEIGHT", "dpo", "odin", "reward_model", "sft"]

MARGIN, SCALE, WEIGHT = "margin", "scale", "weight"
"""The names under which pairs carry what shapes their loss; both completions carry the same number."""


def sft() -> Objective:
    """Negative log-likelihood of the scored tokens, a mean over all tokens of the update."""

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        return {"loss": -model(batch).sum()}

    return Objective(terms, unit="token")


def reward_model(*, centring: float = 0.0, label_smoothing: float = 0.0) -> Objective:
    """Bradley-Terry on pairs, Plackett-Luce on rankings of more than two; reports accuracy of best against worst.

    Rankings of different lengths may share a row. Pairs may carry `MARGIN`, `SCALE` or `WEIGHT`, which enter
    `losses.reward.bradley_terry`, as does the label smoothing; of rankings only the weight has a meaning.
    """

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        return _ranking(model(batch), batch, centring, label_smoothing)

    return Objective(terms)


def odin(*, weight: float = 1.0, centring: float = 0.0, label_smoothing: float = 0.0) -> Objective:
    """ODIN (arXiv 2402.07319): a quality head (output 0) and a length head (output 1) rank by their sum, while
    `weight` times `losses.reward.disentangled` holds them apart. Reports the accuracy of the head that is kept.

    It is the one loss that depends on how trees are packed. A correlation is no sum over trees: it needs many
    completions at once, and those of one forward pass are all that is held with its gradients. So it is taken over each
    row and enters in proportion to the row's trees; a larger `token_budget` makes it a better estimate.
    """

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        quality_C, length_C = cast(Any, model).outputs(batch).unbind(1)
        sums = _ranking(quality_C + length_C, batch, centring, label_smoothing)
        lengths = [length for tree in batch.layout.trees for length in tree.completions]
        tokens_C = torch.tensor(lengths, dtype=torch.float32, device=quality_C.device)
        apart, with_length, with_quality = reward.disentangled(quality_C, length_C, tokens_C)
        own = _ranking(quality_C.detach(), batch, 0.0, 0.0)
        return {
            "loss": sums["loss"] + weight * apart * batch.trees,
            "ranking_loss": sums["loss"].detach(),
            "accuracy": own["accuracy"],
            "margin": own["margin"],
            "reward": own["reward"],
            "length_head_correlation": with_length * batch.trees,
            "quality_head_correlation": with_quality * batch.trees,
        }

    return Objective(terms)


def _ranking(reward_C: torch.Tensor, batch: TreeBatch, centring: float, label_smoothing: float) -> Terms:
    """The terms of rankings by a reward, summed over a row's trees, those of one length at a time."""
    sizes = [len(tree.completions) for tree in batch.layout.trees]
    reward_by_tree = reward_C.split(sizes)
    shaping = {name: batch.values[name].split(sizes) for name in (MARGIN, SCALE, WEIGHT) if name in batch.values}
    sums: Terms = {}
    for count in sorted(set(sizes)):
        chosen = [r for r, size in enumerate(sizes) if size == count]
        own = {name: torch.stack([by_tree[r][0] for r in chosen]) for name, by_tree in shaping.items()}
        reward_R_K = torch.stack([reward_by_tree[r] for r in chosen])
        for name, value in _of_one_length(reward_R_K, own, centring, label_smoothing).items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def _of_one_length(
    reward_R_K: torch.Tensor, own: dict[str, torch.Tensor], centring: float, label_smoothing: float
) -> Terms:
    if reward_R_K.shape[1] == 2:
        loss_R = reward.bradley_terry(
            reward_R_K[:, 0], reward_R_K[:, 1],
            margin_P=own.get(MARGIN, 0.0), scale_P=own.get(SCALE, 1.0), weight_P=own.get(WEIGHT, 1.0),
            label_smoothing=label_smoothing, centring=centring,
        )  # fmt: skip
    elif label_smoothing or MARGIN in own or SCALE in own:
        raise ValueError("label smoothing, margins and scales are for pairs, not for rankings of more than two")
    else:
        loss_R = own.get(WEIGHT, 1.0) * reward.plackett_luce(reward_R_K) + centring * reward_R_K.sum(1) ** 2
    margin_R = (reward_R_K[:, 0] - reward_R_K[:, -1]).detach()
    return {
        "loss": loss_R.sum(),
        "accuracy": (margin_R > 0).float().sum() + 0.5 * (margin_R == 0).float().sum(),
        "margin": margin_R.sum(),
        "reward": reward_R_K.detach().mean(1).sum(),
    }
