"""Hidden states of many trees from a frozen decoder: what a head that stands on them is trained on.

Shapes: R trees, C completions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sawyer.trees.model import TreeDecoder
from sawyer.trees.tree import TokenTree, batches


@dataclass(frozen=True)
class Embedded:
    """Last hidden states, float32 on the CPU, in the order of the trees and their completions.

    Attributes:
        prompt_R_D: of each prompt's last token.
        completion_C_D: of each completion's last token.
        tokens_C: each completion's length.
        tree_C: the number of each completion's tree.
    """

    prompt_R_D: torch.Tensor
    completion_C_D: torch.Tensor
    tokens_C: torch.Tensor
    tree_C: torch.Tensor


@torch.no_grad()
def embed_trees(
    model: TreeDecoder,
    trees: Sequence[TokenTree],
    *,
    token_budget: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> Embedded:
    """What the model's last layer holds at the end of each prompt and of each completion.

    `progress` is called with the number of trees done. Raises SawyerError where a tree exceeds the model's context.
    """
    model.check_context(trees)
    model.eval()
    prompts: list[torch.Tensor] = [torch.empty(0)] * len(trees)
    completions: list[torch.Tensor] = [torch.empty(0)] * len(trees)
    for row, batch in batches(trees, token_budget, model.device):
        hidden_T_D = model.hidden(batch).float()
        ends = torch.tensor([tree.start + tree.prompt - 1 for tree in batch.layout.trees])
        own = hidden_T_D[batch.last_index].cpu().split([len(tree.completions) for tree in batch.layout.trees])
        for i, prompt_D, completion_K_D in zip(row, hidden_T_D[ends.to(model.device)].cpu(), own, strict=True):
            prompts[i], completions[i] = prompt_D, completion_K_D
        if progress is not None:
            progress(len(row))
    counts = torch.tensor([len(tree.completions) for tree in trees])
    return Embedded(
        torch.stack(prompts),
        torch.cat(completions),
        torch.tensor([len(completion) for tree in trees for completion in tree.completions]),
        torch.arange(len(trees)).repeat_interleave(counts),
    )


@torch.no_grad()
def mean_states(
    model: TreeDecoder, trees: Sequence[TokenTree], *, token_budget: int = 4096
) -> list[list[torch.Tensor]]:
    """For each completion of each tree the mean `[D]` of the last hidden states that its scored tokens are predicted
    from, float32 on the CPU: what it is about, rather than how it ends.

    Raises SawyerError where a tree exceeds the model's context.
    """
    model.check_context(trees)
    model.eval()
    found: list[list[torch.Tensor]] = [[] for _ in trees]
    for row, batch in batches(trees, token_budget, model.device):
        hidden_N_D = model.hidden(batch)[batch.predict_index].float()
        sum_C_D = hidden_N_D.new_zeros(batch.completions, hidden_N_D.shape[1])
        sum_C_D = sum_C_D.index_add(0, batch.completion_index, hidden_N_D)
        mean_C_D = (sum_C_D / batch.tokens_by_completion().clamp_min(1)[:, None]).cpu()
        for i, own in zip(row, mean_C_D.split([len(trees[i].completions) for i in row]), strict=True):
            found[i] = list(own)
    return found
