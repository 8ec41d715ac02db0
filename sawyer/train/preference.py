"""Any preference loss, or several with weights, as an objective over packed trees.

Shapes: N scored tokens, C completions, R trees of K completions, best first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from sawyer.losses.completions import Completions, Pairs
from sawyer.losses.registry import LOSSES, Loss
from sawyer.train.loop import Objective, Terms
from sawyer.trees.model import TreeModel
from sawyer.trees.tree import TokenTree, TreeBatch

if TYPE_CHECKING:
    from sawyer.trees.logprobs import Spread

ENTROPY = "entropy"
"""The name of a figure: the entropy of the policy's distribution over the vocabulary, in nats, a mean over all scored
tokens of the update. The tokens are the data's; where the policy wrote them, it is the entropy of what it writes."""
REFERENCE = "reference_logp"
"""The name under which trees carry each completion's log-prob under the reference."""
SHARED_REFERENCE = "shared_reference_logp"
"""The same of the tokens that `shared` leaves."""
SCORE = "score"
"""The name under which trees carry what a feedback says of each completion."""
OPTIMISM = "optimism"
"""The name under which trees carry the weight with which a completion's log-prob is added to the loss: above 0 for one
drawn from the reference, which optimism pushes down."""
DESIRABLE = "desirable"
"""The name under which trees of one labelled completion carry 1 (desirable) or 0, and -1 for one that is not theirs."""


@dataclass(frozen=True)
class Weighted:
    """A loss as one part of an objective."""

    loss: Loss
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Its options, with the defaults of those that were not given."""
        return {**self.loss.options, **self.options}


def dpo(*, beta: float = 0.1, label_smoothing: float = 0.0) -> Objective:
    """DPO on pairs that carry their reference log-probs; conservative DPO with label smoothing."""
    if not label_smoothing:
        return preference([Weighted(LOSSES["dpo"], options={"beta": beta})])
    return preference([Weighted(LOSSES["cdpo"], options={"beta": beta, "label_smoothing": label_smoothing})])


def preference(mix: Sequence[Weighted]) -> Objective:
    """The weighted sum of losses on trees that carry what these need (`REFERENCE`, `SCORE`, `SHARED_REFERENCE`).

    Of trees of more than two completions, losses of pairs take the best and the worst. Trees may carry `OPTIMISM`:
    completions with a weight enter the loss by it, and one that is the last of three or more belongs to no pair.

    Reported are, of the best and the worst, the rewards of the first loss (beta times the log-ratio, or without a
    reference times the mean log-prob a token), their margin and how often it is right, the log-probs, and
    `displacement`: by how much the log-prob of the chosen has moved from the reference's, which falls below 0 where a
    loss lowers both (Razin et al. 2024, arXiv 2410.08847); and of all completions the `entropy` (see `ENTROPY`).
    """
    first = mix[0]
    shared = any(part.loss.name == "ld_dpo" for part in mix)

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        logp_N, spread = model(batch, spread=True)
        seen = completions_of(logp_N, batch, shared, spread)
        sums: Terms = {}
        weight_C = batch.values.get(OPTIMISM)
        for index_R_K in _by_count(batch):
            own = seen.at(index_R_K)
            extra = weight_C is not None and index_R_K.shape[1] > 2
            pairs = Pairs(own.at((..., 0)), own.at((..., -2 if extra else -1)))
            loss = sum((part.weight * _loss(part, own, pairs).sum() for part in mix), seen.logp_S.new_zeros(()))
            if weight_C is not None:
                loss = loss + (weight_C[index_R_K] * own.logp_S).sum()
            for name, value in {"loss": loss, **_figures(first, pairs)}.items():
                sums[name] = sums[name] + value if name in sums else value
        return {**sums, ENTROPY: spread.entropy_N.sum()}

    return Objective(terms, by_token=frozenset({ENTROPY}))


def kto(options: Mapping[str, Any] | None = None) -> Objective:
    """Kahneman-Tversky optimisation on `mismatched` trees; the baseline is the mean over the packed row, and reported:
    how far the policy is from the reference on completions that are not their prompt's, which is no KL divergence."""
    settings = {**LOSSES["kto"].options, **(options or {})}

    def terms(model: TreeModel, batch: TreeBatch) -> Terms:
        logp_N, spread = model(batch, spread=True)
        seen, label_C = completions_of(logp_N, batch, False), batch.values[DESIRABLE]
        own, others = seen.at(label_C >= 0), seen.at(label_C < 0)
        baseline = others.ratio_S.detach().mean().clamp_min(0) if len(others.logp_S) else 0.0
        good_S = label_C[label_C >= 0] > 0.5
        loss_S = LOSSES["kto"].function(own, good_S, baseline=baseline, **settings)
        reward_S = settings["beta"] * own.ratio_S.detach()
        return {
            "loss": loss_S.sum(),
            "reward_desirable": reward_S[good_S].sum(),
            "reward_undesirable": reward_S[~good_S].sum(),
            "baseline": loss_S.new_tensor(float(baseline)) * batch.trees,
            ENTROPY: spread.entropy_N.sum(),
        }

    return Objective(terms, by_token=frozenset({ENTROPY}))


def mismatched(trees: Sequence[TokenTree], desirable: Sequence[bool]) -> list[TokenTree]:
    """Trees of one completion each, with the next tree's completion as a second one that is not theirs: from its
    log-ratio KTO estimates how far the policy has gone from the reference. The prompt is computed once for both."""
    return [
        replace(
            tree,
            completions=[tree.completions[0], trees[(i + 1) % len(trees)].completions[0]],
            values={**tree.values, DESIRABLE: [float(good), -1.0]},
        )
        for i, (tree, good) in enumerate(zip(trees, desirable, strict=True))
    ]


def shared(tree: TokenTree) -> TokenTree:
    """The tree, with only so many tokens of each completion scored as its shortest has."""
    count = min(map(len, tree.completions))
    return replace(tree, scored=[[i < count for i in range(len(own))] for own in tree.completions])


def completions_of(
    logp_N: torch.Tensor, batch: TreeBatch, with_shared: bool, spread: Spread | None = None
) -> Completions:
    """What losses may look at, of every completion of a packed row, `[C]`."""
    return Completions(
        batch.sum_by_completion(logp_N),
        batch.tokens_by_completion(),
        batch.values.get(REFERENCE),
        batch.values.get(SCORE),
        shared_sums(logp_N, batch) if with_shared else None,
        batch.values.get(SHARED_REFERENCE),
        None if spread is None else batch.sum_by_completion(spread.collision_N),
    )


def shared_sums(logp_N: torch.Tensor, batch: TreeBatch) -> torch.Tensor:
    """`[C]` log-probs of the first tokens, as many as the shortest completion of the tree has."""
    tokens_C = batch.tokens_by_completion()
    shortest_R = torch.full((batch.trees,), int(tokens_C.max()), device=tokens_C.device)
    shortest_R = shortest_R.scatter_reduce(0, batch.tree_index, tokens_C, "amin")
    begin_C = tokens_C.cumsum(0) - tokens_C
    rank_N = torch.arange(len(logp_N), device=logp_N.device) - begin_C[batch.completion_index]
    within_N = rank_N < shortest_R[batch.tree_index][batch.completion_index]
    return batch.sum_by_completion(torch.where(within_N, logp_N, 0.0))


def _by_count(batch: TreeBatch) -> Iterator[torch.Tensor]:
    """The completions of the row's trees as `[R, K]` indices, those of each K together."""
    sizes = [len(tree.completions) for tree in batch.layout.trees]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    for count in sorted(set(sizes)):
        rows = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True) if size == count]
        yield torch.tensor(rows, device=batch.last_index.device)


def _loss(part: Weighted, own: Completions, pairs: Pairs) -> torch.Tensor:
    options = part.settings
    if part.loss.name == "bco":
        rewards = torch.cat([pairs.chosen.ratio_S, pairs.rejected.ratio_S]).detach()
        options = {**options, "shift": options["beta"] * rewards.mean()}
    return part.loss.function(own if part.loss.data == "rankings" else pairs, **options)


def _figures(first: Weighted, pairs: Pairs) -> Terms:
    beta = first.settings.get("beta", 1.0)
    sides = [
        Completions(side.logp_S.detach(), side.tokens_S, side.reference_logp_S)
        for side in (pairs.chosen, pairs.rejected)
    ]
    chosen_R, rejected_R = (
        beta * (side.mean_logp_S if side.reference_logp_S is None else side.ratio_S) for side in sides
    )
    figures = {
        "accuracy": (chosen_R > rejected_R).float().sum(),
        "margin": (chosen_R - rejected_R).sum(),
        "reward_chosen": chosen_R.sum(),
        "reward_rejected": rejected_R.sum(),
        "logp_chosen": sides[0].logp_S.sum(),
        "logp_rejected": sides[1].logp_S.sum(),
    }
    if sides[0].reference_logp_S is not None:
        figures["displacement"] = sides[0].ratio_S.sum()
    return figures
