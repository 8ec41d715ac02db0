"""Reading a model over many trees without gradients: log-probs under a policy, rewards under a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sawyer.trees.model import TreeModel, TreePolicy
from sawyer.trees.tree import TokenTree, TreeBatch, batches


@torch.no_grad()
def score_trees(
    model: TreeModel,
    trees: Sequence[TokenTree],
    *,
    token_budget: int = 4096,
    of_token: Callable[[torch.Tensor], torch.Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """One number for each completion of each tree: a policy's log-prob summed over its scored tokens (nats), or a
    reward model's reward. The prompt of a tree is computed once.

    `of_token` changes a policy's log-probs `[N]` before they are summed. `progress` is called with the number of trees
    done. Raises SawyerError where a tree exceeds the model's context.
    """

    def read(batch: TreeBatch) -> tuple[torch.Tensor, ...]:
        value_C = model(batch)
        if isinstance(model, TreePolicy):
            value_C = batch.sum_by_completion(value_C if of_token is None else of_token(value_C))
        return (value_C,)

    return [[score for (score,) in own] for own in _each(model, trees, token_budget, read, progress)]


@torch.no_grad()
def log_probs_and_entropies(
    model: TreePolicy, trees: Sequence[TokenTree], *, token_budget: int = 4096
) -> list[list[tuple[float, float]]]:
    """For each completion of each tree its log-prob, summed over its scored tokens, and the mean entropy of the
    distributions that they are predicted from, both in nats; of a completion without tokens 0 and 0.

    Raises SawyerError where a tree exceeds the model's context.
    """

    def read(batch: TreeBatch) -> tuple[torch.Tensor, ...]:
        logp_N, spread = model(batch, spread=True)
        count_C = batch.tokens_by_completion().clamp_min(1)
        return batch.sum_by_completion(logp_N), batch.sum_by_completion(spread.entropy_N) / count_C

    return [[(logp, entropy) for logp, entropy in own] for own in _each(model, trees, token_budget, read)]


def _each(
    model: TreeModel,
    trees: Sequence[TokenTree],
    token_budget: int,
    read: Callable[[TreeBatch], tuple[torch.Tensor, ...]],
    progress: Callable[[int], None] | None = None,
) -> list[list[tuple[float, ...]]]:
    """What `read` says of each completion of each tree; of a packed row it gives tensors `[C]`."""
    model.check_context(trees)
    model.eval()
    found: list[list[tuple[float, ...]]] = [[] for _ in trees]
    for row, batch in batches(trees, token_budget, model.device):
        numbers = zip(*(value_C.tolist() for value_C in read(batch)), strict=True)
        for i in row:
            found[i] = [next(numbers) for _ in trees[i].completions]
        if progress is not None:
            progress(len(row))
    return found
