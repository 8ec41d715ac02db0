"""Reading a model over many trees without gradients: log-probs under a policy, rewards under a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sawyer.trees.model import TreeModel, TreePolicy
from sawyer.trees.tree import TokenTree, batches


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
    model.check_context(trees)
    model.eval()
    scores: list[list[float]] = [[] for _ in trees]
    for row, batch in batches(trees, token_budget, model.device):
        value_C = model(batch)
        if isinstance(model, TreePolicy):
            value_C = batch.sum_by_completion(value_C if of_token is None else of_token(value_C))
        numbers = iter(value_C.tolist())
        for i in row:
            scores[i] = [next(numbers) for _ in trees[i].completions]
        if progress is not None:
            progress(len(row))
    return scores
