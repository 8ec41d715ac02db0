"""Losses of reinforcement learning: pure functions of per-token tensors, ragged, each with its equation and source.

Shapes: N tokens of completions, packed end to end without padding.
"""

from __future__ import annotations

import torch


def clipped_policy(
    logp_N: torch.Tensor,
    old_logp_N: torch.Tensor,
    advantage_N: torch.Tensor,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[N]` -min(rho A, clip(rho, 1 - e, 1 + e_high) A) with rho = pi / pi_old, and `[N]` 1 where the clip binds.

    Where the policy is the one that drew the tokens, rho is 1 and the gradient is REINFORCE's, -A grad log pi.

    Args:
        clip: e.
        clip_high: e_high; the same as `clip` by default (DAPO, Yu et al. 2025, arXiv 2503.14476, takes a larger one).

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    ratio_N = (logp_N - old_logp_N).exp()
    plain_N = -advantage_N * ratio_N
    clipped_N = -advantage_N * ratio_N.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return torch.maximum(plain_N, clipped_N), (clipped_N > plain_N).to(logp_N.dtype)


def clipped_value(
    value_N: torch.Tensor, old_value_N: torch.Tensor, return_N: torch.Tensor, *, clip: float | None = 0.2
) -> torch.Tensor:
    """`[N]` 0.5 max((V - R)^2, (V_old + clip(V - V_old, -e, e) - R)^2); without a clip 0.5 (V - R)^2.

    Source: the value loss of OpenAI's PPO (baselines), as in Ziegler et al. 2019; Huang et al. 2024, "The N
    implementation details of RLHF with PPO".
    """
    plain_N = (value_N - return_N) ** 2
    if clip is None:
        return 0.5 * plain_N
    near_N = old_value_N + (value_N - old_value_N).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain_N, (near_N - return_N) ** 2)


def entropy(logits_N_V: torch.Tensor) -> torch.Tensor:
    """`[N]` -sum_v p_v log p_v of softmax(logits), in nats.

    The slow form; `trees.logprobs.token_entropy` is the same without logits of all tokens at once.
    """
    logp_N_V = logits_N_V.float().log_softmax(-1)
    return -(logp_N_V.exp() * logp_N_V).sum(-1)


def importance_weights(logp_N: torch.Tensor, drawn_logp_N: torch.Tensor, *, cap: float | None = 2.0) -> torch.Tensor:
    """`[N]` min(pi / mu, cap) without gradient: what a token drawn from mu counts for under pi.

    Where mu is pi with tokens cut off (top-k, nucleus), tokens that mu never draws stay unseen: the weights correct the
    share of the others and cannot bring those back.

    Args:
        logp_N: log-probs under the policy's own distribution.
        drawn_logp_N: under the distribution that the tokens were drawn from.
        cap: truncates the weights (Ionides 2008, truncated importance sampling); None for no truncation.
    """
    weight_N = (logp_N - drawn_logp_N).exp().detach()
    return weight_N if cap is None else weight_N.clamp_max(cap)


def explained_variance(value_N: torch.Tensor, return_N: torch.Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 where values foresee returns, 0 for a constant, below 0 for worse than that; 0 where
    returns do not vary."""
    spread = float(return_N.var(correction=0))
    return 1 - float((return_N - value_N).var(correction=0)) / spread if spread > 0 else 0.0
