"""Tree attention: completion k sees the prompt and itself, never its siblings, nor any other tree of the row.

It is an attention implementation registered with transformers, so any decoder works unchanged: the layout of the row
travels as the keyword argument `tree_layout` from the model's forward to every layer. Three kernels, one meaning:

* `_dense`: each tree's scores as one matrix product. Fastest for short trees in bfloat16, and the only one that knows
  soft-capping. Its memory grows with the square of a tree's length, for one layer at a time.
* `_sdpa`: each tree through PyTorch's scaled_dot_product_attention with a mask; for long trees, and in float32.
* `_flex`: the whole row through FlexAttention with a block mask; on CUDA.

Shapes: B = 1 row, H query heads, G key heads (H / G query heads share one), T packed tokens, L tokens of one tree, R of
them that ask, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from sawyer.errors import SawyerError
from sawyer.trees.tree import Branches, Layout

NAME = "sawyer_tree"
CALLS = "calls"  # in a layout's cache: how many layers have asked for tree attention since it was last set to 0
DENSE_UP_TO = {torch.bfloat16: 1024, torch.float16: 1024, torch.float32: 0}
"""Tokens in a tree up to which plain products beat PyTorch's fused kernel on a CPU; in float32 they never do."""
BLOCK = 128
"""Tokens of completions whose queries are computed together: fewer mean more kernels, more mean more masked scores."""


def tree_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    tree_layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    position_ids: torch.Tensor | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a packed row, in the signature transformers asks for.

    Args:
        query: `[1, H, T, D]`; `key`, `value`: `[1, G, T, D]`.
        scaling: multiplies the scores, 1 / sqrt(D) when None.
        dropout: must be 0; Sawyer trains without attention dropout.
        tree_layout: the shape of the row. Architectures that do not hand keyword arguments down to their attention
            still hand down `position_ids`, and find it there.
        sliding_window: a query sees keys less than this many positions back.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2).
        s_aux: must be None; the attention sinks of gpt-oss are not supported.

    Returns:
        `[1, T, H, D]` and no attention weights.
    """
    layout = tree_layout if tree_layout is not None else getattr(position_ids, "tree_layout", None)
    if layout is None:
        raise SawyerError(
            f"{type(module).__name__} hands no keyword arguments to its attention, so trees cannot be packed for it"
        )
    if s_aux is not None:
        raise SawyerError(f"{type(module).__name__} has attention sinks, which trees do not support; use another model")
    layout.cache[CALLS] = layout.cache.get(CALLS, 0) + 1
    if dropout and module.training:
        raise SawyerError("tree attention has no dropout; set the model's attention dropout to 0")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = None if sliding_window is None or sliding_window >= layout.length else int(sliding_window)
    device = query.device.type
    # under autocast or on a float32 residual stream, rotary embeddings leave float32 queries and keys beside the values
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = (x.to(compute) for x in (query, key, value))
    with torch.autocast(device, enabled=False):
        if device == "cuda":
            return _flex(query, key, value, layout, scale, window, softcap).transpose(1, 2), None
        return _by_tree(query, key, value, layout, scale, window, softcap), None


def _by_tree(query, key, value, layout: Layout, scale: float, window: int | None, softcap: float | None):
    """`[1, T, H, D]` of the whole row, a tree at a time; query `[1, H, T, D]`, key and value `[1, G, T, D]`."""
    lengths = [tree.length for tree in layout.trees]
    parts = (x.split(lengths, dim=2) for x in (query, key, value))
    outputs = []
    for tree, *whole in zip(layout.trees, *parts, strict=True):
        for block, q, k, v in _blocks(tree, *whole):
            if block.length <= DENSE_UP_TO.get(q.dtype, 0) or softcap is not None:
                outputs.append(_dense(q, k, v, layout, block, scale, window, softcap))
            else:
                outputs.append(_sdpa(q, k, v, layout, block, scale, window))
    return torch.cat(outputs, dim=1)


def _blocks(tree: Branches, query, key, value):
    """One tree's attention in parts: yields smaller trees, the queries `[1, H, R, D]` of their last R tokens, and their
    keys and values `[1, G, L, D]`.

    The scores of a completion with its siblings are masked, but a kernel computes them all the same, and of eight
    completions they are most of the scores. So a large tree is cut into its prompt alone, and the prompt with some of
    the completions at a time.
    """
    groups = [(tree.prompt, ()), *((sum(group), group) for group in _groups(tree.completions))]
    if len(groups) == 2:
        yield tree, query, key, value
        return
    (own, *queries), (prompt_k, *keys), (prompt_v, *values) = (
        x.split([length for length, _ in groups], dim=2) for x in (query, key, value)
    )
    yield Branches(0, tree.prompt, ()), own, prompt_k, prompt_v
    for (_, group), q, k, v in zip(groups[1:], queries, keys, values, strict=True):
        yield Branches(0, tree.prompt, group), q, torch.cat([prompt_k, k], dim=2), torch.cat([prompt_v, v], dim=2)


def _groups(completions: Sequence[int]) -> list[tuple[int, ...]]:
    """The lengths of completions, in order, in groups that end as soon as they have `BLOCK` tokens."""
    groups: list[tuple[int, ...]] = [()]
    for length in completions:
        if sum(groups[-1]) >= BLOCK:
            groups.append(())
        groups[-1] += (length,)
    return groups


def tree_mask(tree: Branches, window: int | None = None, device: torch.device | str = "cpu") -> torch.Tensor:
    """`[L, L]` True where a query (row) may look at a key (column): the definition all kernels follow."""
    branch = torch.tensor([-1, *range(len(tree.completions))]).repeat_interleave(
        torch.tensor([tree.prompt, *tree.completions])
    )
    order = torch.arange(tree.length)
    seen = (order[:, None] >= order) & ((branch == -1)[None, :] | (branch[:, None] == branch))
    if window is not None:
        first = torch.tensor([0, *[tree.prompt] * len(tree.completions)])
        begin = torch.tensor([0, *[tree.prompt + sum(tree.completions[:k]) for k in range(len(tree.completions))]])
        position = order - begin[branch + 1] + first[branch + 1]
        seen &= position[:, None] - position < window
    return seen.to(device)


class _DenseAttention(torch.autograd.Function):
    """softmax(scale * q k^T + bias) v with the query heads of a key head stacked (M = H / G * R), so keys are never
    copied.

    The backward makes the probabilities again, so that no layer keeps memory that grows with the square of a length.
    """

    @staticmethod
    def forward(ctx, q_G_M_D, k_G_L_D, v_G_L_D, bias_M_L, scale):
        ctx.save_for_backward(q_G_M_D, k_G_L_D, v_G_L_D, bias_M_L)
        ctx.scale = scale
        return torch.bmm(_DenseAttention.probabilities(q_G_M_D, k_G_L_D, bias_M_L, scale), v_G_L_D)

    @staticmethod
    def probabilities(q_G_M_D, k_G_L_D, bias_M_L, scale):
        return torch.softmax(torch.baddbmm(bias_M_L, q_G_M_D, k_G_L_D.transpose(1, 2), alpha=scale), dim=-1)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, bias = ctx.saved_tensors
        p = _DenseAttention.probabilities(q, k, bias, ctx.scale)
        grad = grad.contiguous()
        grad_v = torch.bmm(p.transpose(1, 2), grad)
        grad_s = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), p, -1, p.dtype)
        grad_q = torch.bmm(grad_s, k).mul_(ctx.scale)
        grad_k = torch.bmm(grad_s.transpose(1, 2), q).mul_(ctx.scale)
        return grad_q, grad_k, grad_v, None, None


def _dense(query, key, value, layout: Layout, tree: Branches, scale: float, window: int | None, softcap: float | None):
    """`[1, R, H, D]` of the last R tokens of one tree by plain matrix products."""
    _, heads, rows, size = query.shape
    groups = key.shape[1]
    share = heads // groups
    q = query.reshape(groups, share * rows, size)
    k, v = key.squeeze(0), value.squeeze(0)
    bias = _bias(layout, tree, rows, window, query.dtype, share, groups)
    if softcap is None:
        out = _DenseAttention.apply(q, k, v, bias, scale)
    else:
        scores = torch.bmm(q, k.transpose(1, 2)).mul(scale / softcap).tanh().mul(softcap) + bias
        out = torch.bmm(scores.softmax(-1, dtype=torch.float32).to(v.dtype), v)
    return out.view(heads, rows, size).transpose(0, 1)[None]


def _bias(
    layout: Layout, tree: Branches, rows: int, window: int | None, dtype: torch.dtype, share: int, groups: int
) -> torch.Tensor:
    """`[G, share * R, L]`, 0 where seen and -inf elsewhere; made once a row and shape."""
    key = (tree.prompt, tree.completions, rows, window, dtype, share)
    if key not in layout.cache:
        unseen = ~tree_mask(tree, window, layout.device)[-rows:]
        bias = torch.zeros(unseen.shape, dtype=dtype, device=layout.device).masked_fill_(unseen, -math.inf)
        layout.cache[key] = bias.repeat(share, 1)
    return layout.cache[key].expand(groups, -1, -1)


def _sdpa(query, key, value, layout: Layout, tree: Branches, scale: float, window: int | None):
    """`[1, R, H, D]` of the last R tokens of one tree through scaled_dot_product_attention."""
    rows = query.shape[2]
    mask = None
    if window is not None or rows < tree.length or len(tree.completions) > 1:
        cached = ("mask", tree.prompt, tree.completions, rows, window)
        if cached not in layout.cache:
            layout.cache[cached] = tree_mask(tree, window, layout.device)[-rows:]
        mask = layout.cache[cached]
    share = query.shape[1] // key.shape[1]
    if share > 1:  # several times as fast as enable_gqa on the CPU
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2)


def _flex(query, key, value, layout: Layout, scale: float, window: int | None, softcap: float | None):
    """`[1, H, T, D]` of the whole row through FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    cached = ("flex", window)
    if cached not in layout.cache:
        tree_T, branch_T = layout.tree_T, layout.branch_T
        position_T = _positions(layout)

        def seen(b, h, q, k):
            visible = (tree_T[q] == tree_T[k]) & (q >= k) & ((branch_T[k] < 0) | (branch_T[q] == branch_T[k]))
            return visible if window is None else visible & (position_T[q] - position_T[k] < window)

        layout.cache[cached] = create_block_mask(
            seen, None, None, layout.length, layout.length, device=str(layout.device)
        )
    score_mod = None
    if softcap is not None:

        def score_mod(score, b, h, q, k):
            return softcap * torch.tanh(score / softcap)

    kernel = _compiled_flex() if query.device.type == "cuda" else flex_attention
    return kernel(
        query, key, value, score_mod=score_mod, block_mask=layout.cache[cached], scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


_FLEX: list[Any] = []


def _compiled_flex() -> Any:
    if not _FLEX:
        from torch.nn.attention.flex_attention import flex_attention

        _FLEX.append(torch.compile(flex_attention, dynamic=True))
    return _FLEX[0]


def _positions(layout: Layout) -> torch.Tensor:
    positions = []
    for tree in layout.trees:
        positions.append(torch.arange(tree.prompt))
        positions.extend(torch.arange(tree.prompt, tree.prompt + length) for length in tree.completions)
    return torch.cat(positions).to(layout.device)


AttentionInterface.register(NAME, tree_attention)
# No mask of transformers' own: the layout says it all.
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
