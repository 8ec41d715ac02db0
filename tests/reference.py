"""The slow, obvious way: what the tree path must equal.

The prompt is copied for each completion, the copies are padded on the right to a rectangle, the model runs with its own
eager attention and its own head, and the log-probs are gathered from the logits of every position.

Shapes: C completions, S tokens of the longest prompt + completion, V vocabulary, N scored tokens.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sawyer.trees.tree import TokenTree


def eager(model: nn.Module) -> nn.Module:
    """A copy of `model` (adapters included) with the attention transformers writes out in full."""
    model = copy.deepcopy(model)
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    core.set_attn_implementation("eager")
    return model


def rectangle(trees: Sequence[TokenTree], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[C, S]` token ids and attention mask, one row a completion."""
    rows = [[*tree.prompt, *completion] for tree in trees for completion in tree.completions]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def padded_logprobs(model: nn.Module, trees: Sequence[TokenTree], pad: int = 0) -> torch.Tensor:
    """`[N]` the log-prob of every scored token, in the order of a `TreeBatch`."""
    ids, mask = rectangle(trees, pad)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    logp = F.log_softmax(logits[:, :-1], dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    scored, row = [], 0
    for tree in trees:
        for k, completion in enumerate(tree.completions):
            for i in range(len(completion)):
                if tree.scored is None or tree.scored[k][i]:
                    scored.append(logp[row, len(tree.prompt) + i - 1])
            row += 1
    return torch.stack(scored)


def completion_sums(logp_N: torch.Tensor, trees: Sequence[TokenTree]) -> list[torch.Tensor]:
    """The sum of each completion's scored log-probs."""
    counts = [
        sum(tree.scored[k]) if tree.scored is not None else len(completion)
        for tree in trees
        for k, completion in enumerate(tree.completions)
    ]
    return [part.sum() for part in logp_N.split(counts)]


def padded_rewards(model: nn.Module, trees: Sequence[TokenTree], pad: int = 0) -> torch.Tensor:
    """`[C]` the score at each completion's last token."""
    ids, mask = rectangle(trees, pad)
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = core.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = mask.sum(1) - 1
    return core.score(hidden)[torch.arange(len(ids)), last, 0]
