"""Log-probs of the scored tokens only, without ever holding a [T, vocab] or even an [N, vocab] tensor.

The vocabulary is walked in tiles: logits of a tile live just long enough to enter a running log-sum-exp, and the
backward makes them again. Memory is bounded by `TOKENS * TILE` numbers whatever the batch and the vocabulary, and the
head's weights stream through the caches once a pass. What else is worth knowing of the whole distribution (`Spread`)
comes from the same tiles.

Shapes: N scored tokens, D hidden size, V vocabulary, n <= TOKENS, v <= TILE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from sawyer.models import native

TOKENS = 2048
TILE = 4096


@dataclass(frozen=True)
class Spread:
    """How wide the distributions are from which scored tokens are predicted. No gradient goes through it.

    Attributes:
        entropy_N: -sum_v p log p, in nats.
        collision_N: log sum_v p^2, the logarithm of what a token drawn from p has for a probability on average.
    """

    entropy_N: torch.Tensor
    collision_N: torch.Tensor


def token_logprobs(
    hidden_N_D: torch.Tensor,
    head: nn.Module,
    target_N: torch.Tensor,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """`[N]` float32: log softmax(logits)[target], logits = softcap(scale * head(hidden)).

    Args:
        hidden_N_D: the hidden states that predict the scored tokens.
        head: the model's output embedding. A plain linear layer takes the tiled path; anything else (an adapter on
            the head, say) is called as it is, in checkpointed chunks of tokens.
        target_N: the scored tokens.
        softcap: final logit soft-capping (Gemma 2), None for none.
        scale: multiplies the logits before the cap (Granite, Cohere).
    """
    return _read(hidden_N_D, head, target_N, softcap, scale, False)[0]


def token_spread(
    hidden_N_D: torch.Tensor,
    head: nn.Module,
    target_N: torch.Tensor,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, Spread]:
    """What `token_logprobs` gives, to the bit, and the spread of the distributions."""
    logp_N, entropy_N, collision_N = _read(hidden_N_D, head, target_N, softcap, scale, True)
    return logp_N, Spread(entropy_N, collision_N)


def _read(hidden_N_D, head, target_N, softcap, scale, spread):
    """Log-probs, entropies and collisions, `[N]` each; the last two only with `spread`."""
    if type(head) is nn.Linear:
        return _TiledLogprobs.apply(hidden_N_D, head.weight, head.bias, target_N, softcap, scale, spread)

    def plain(hidden: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = head(hidden).float() * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        logp = -F.cross_entropy(logits, target, reduction="none")
        if not spread:
            return logp, logp.detach(), logp.detach()
        every = torch.log_softmax(logits.detach(), -1)
        return logp, -(every.exp() * every).sum(-1), torch.logsumexp(2 * every, -1)

    parts = zip(hidden_N_D.split(256), target_N.split(256), strict=True)
    read = [checkpoint(plain, hidden, target, use_reentrant=False) for hidden, target in parts]
    return tuple(torch.cat(column) for column in zip(*read, strict=True))


def token_entropy(
    hidden_N_D: torch.Tensor, head: nn.Module, *, softcap: float | None = None, scale: float = 1.0
) -> torch.Tensor:
    """`[N]` float32: the entropy of softmax(logits) in nats, with its gradient (`token_spread` has none, and costs
    nothing beside log-probs); logits as in `token_logprobs`, in checkpointed chunks of
    tokens, so that no `[N, vocab]` tensor is held."""

    def of(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden.to(dtype)).float() * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        logp = logits.log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    dtype = next(head.parameters()).dtype
    return torch.cat([checkpoint(of, hidden, use_reentrant=False) for hidden in hidden_N_D.split(256)])


def _tiles(weight_V_D: torch.Tensor, bias_V: torch.Tensor | None):
    for start in range(0, weight_V_D.shape[0], TILE):
        rows = slice(start, start + TILE)
        yield rows, weight_V_D[rows], None if bias_V is None else bias_V[rows]


def _logits(hidden, weight, bias, softcap, scale):
    """Float32 logits of one tile."""
    logits = F.linear(hidden, weight, bias).float()
    if scale != 1.0:
        logits = logits.mul_(scale)
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _inside(target, width):
    """Indices of the tokens whose target lies in the tile, targets counted from the tile's first row."""
    return ((target >= 0) & (target < width)).nonzero()[:, 0]


def _picked(hidden_N_D, weight_V_D, bias_V, target_N, softcap, scale):
    """`[N]` the targets' logits, summed up in float32: in bfloat16 a tile's are rounded to about one part in 256."""
    picked = []
    for hidden, target in zip(hidden_N_D.split(TOKENS), target_N.split(TOKENS), strict=True):
        logits = (hidden.float() * weight_V_D[target].float()).sum(-1)
        picked.append(logits if bias_V is None else logits + bias_V[target].float())
    logits = torch.cat(picked) * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _sums(ctx, hidden, weight, bias, target, picked, spread):
    """The log-sum-exp of a tile's logits x, `[1, n]` float32, or `[3, n]` with the mean of x under softmax(x) and the
    log-sum-exp of 2x. `target` counts from the tile's first row, and lies outside of it where another tile has it."""
    if ctx.c is not None:
        return native.softmax_sums(ctx.c, F.linear(hidden, weight, bias), target, picked)
    logits = _logits(hidden, weight, bias, ctx.softcap, ctx.scale)
    inside = _inside(target, len(weight))
    logits[inside, target[inside]] = picked[inside]
    total = torch.logsumexp(logits, dim=1)
    if not spread:
        return total[None]
    twice = torch.logsumexp(2 * logits, dim=1)
    mean = (torch.softmax(logits, dim=1) * logits.clamp_min(torch.finfo(logits.dtype).min)).sum(1)
    return torch.stack([total, mean, twice])


def _d_logits(ctx, hidden, weight, bias, target, picked, normaliser, grad):
    """The gradient of grad * log p[target] with respect to a tile's logits, in the weight's type; `target` as above."""
    if ctx.c is not None:
        return native.log_softmax_backward(ctx.c, F.linear(hidden, weight, bias), target, picked, normaliser, grad)
    logits = _logits(hidden, weight, bias, ctx.softcap, ctx.scale)
    inside = _inside(target, len(weight))
    logits[inside, target[inside]] = picked[inside]
    slope = None if ctx.softcap is None else 1 - (logits / ctx.softcap) ** 2
    # d log p_target / d logit_v = [v = target] - p_v, so the sign is turned once, here
    d_logits = logits.sub_(normaliser[:, None]).exp_().mul_(-grad[:, None])
    d_logits[inside, target[inside]] += grad[inside]
    if slope is not None:
        d_logits *= slope
    if ctx.scale != 1.0:
        d_logits *= ctx.scale
    return d_logits.to(weight.dtype)


class _TiledLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_N_D, weight_V_D, bias_V, target_N, softcap, scale, spread):
        hidden_N_D = hidden_N_D.to(weight_V_D.dtype)
        normaliser_N = torch.empty(hidden_N_D.shape[0], dtype=torch.float32, device=hidden_N_D.device)
        entropy_N, collision_N = (normaliser_N.new_empty(len(normaliser_N) * spread) for _ in range(2))
        picked_N = _picked(hidden_N_D, weight_V_D, bias_V, target_N, softcap, scale)
        ctx.softcap, ctx.scale = softcap, scale
        ctx.c = native.usable(hidden_N_D, weight_V_D) if softcap is None and scale == 1.0 else None
        for begin in range(0, hidden_N_D.shape[0], TOKENS):
            part = slice(begin, begin + TOKENS)
            hidden, target = hidden_N_D[part], target_N[part]
            tiles = [
                _sums(ctx, hidden, weight, bias, target - rows.start, picked_N[part], spread)
                for rows, weight, bias in _tiles(weight_V_D, bias_V)
            ]
            totals = torch.stack([sums[0] for sums in tiles])
            normaliser_N[part] = torch.logsumexp(totals, dim=0)
            if spread:
                share = torch.exp(totals - normaliser_N[part])
                mean = (share * torch.stack([sums[1] for sums in tiles])).sum(0)
                entropy_N[part] = (normaliser_N[part] - mean).clamp_min(0)
                twice = torch.logsumexp(torch.stack([sums[2] for sums in tiles]), dim=0)
                collision_N[part] = twice - 2 * normaliser_N[part]
        ctx.save_for_backward(hidden_N_D, weight_V_D, bias_V, target_N, normaliser_N, picked_N)
        ctx.mark_non_differentiable(entropy_N, collision_N)
        return picked_N - normaliser_N, entropy_N, collision_N

    @staticmethod
    def backward(ctx, grad_N, *_):
        hidden_N_D, weight_V_D, bias_V, target_N, normaliser_N, picked_N = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden_N_D, dtype=torch.float32) if needs_hidden else None
        grad_weight = torch.empty_like(weight_V_D) if needs_weight else None
        if grad_weight is not None and not len(target_N):  # no chunk will write it
            grad_weight.zero_()
        grad_bias = torch.zeros_like(bias_V) if needs_bias and bias_V is not None else None
        for begin in range(0, hidden_N_D.shape[0], TOKENS):
            part = slice(begin, begin + TOKENS)
            hidden, target, grad = hidden_N_D[part], target_N[part], grad_N[part].contiguous()
            for rows, weight, bias in _tiles(weight_V_D, bias_V):
                d_logits = _d_logits(
                    ctx, hidden, weight, bias, target - rows.start, picked_N[part], normaliser_N[part], grad
                )
                if grad_hidden is not None:
                    grad_hidden[part] += d_logits @ weight
                if grad_weight is not None:
                    if begin == 0:
                        torch.mm(d_logits.t(), hidden, out=grad_weight[rows])
                    else:
                        grad_weight[rows].addmm_(d_logits.t(), hidden)
                if grad_bias is not None:
                    grad_bias[rows] += d_logits.sum(0)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden_N_D.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None
