"""Losses for reward models: pure functions of rewards.

Shapes: P pairs, R rankings of K completions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def bradley_terry(
    chosen_reward_P: torch.Tensor,
    rejected_reward_P: torch.Tensor,
    *,
    margin_P: torch.Tensor | float = 0.0,
    centring: float = 0.0,
) -> torch.Tensor:
    """`[P]` -log sigmoid(r_w - r_l - margin) + centring * (r_w + r_l)^2.

    Source: Bradley & Terry 1952 as in Ouyang et al. 2022, equation 1; the margin is Llama 2's (arXiv 2307.09288,
    equation 2); centring keeps the mean reward near zero (Eisenstein et al. 2023, arXiv 2312.09244).
    """
    loss_P = -F.logsigmoid(chosen_reward_P - rejected_reward_P - margin_P)
    if centring:
        loss_P = loss_P + centring * (chosen_reward_P + rejected_reward_P) ** 2
    return loss_P


def plackett_luce(reward_R_K: torch.Tensor) -> torch.Tensor:
    """`[R]` negative log-likelihood of whole rankings, rewards given best first: -sum_k [r_k - logsumexp_{j >= k} r_j].

    With K = 2 it equals `bradley_terry`. Source: Plackett 1975; Zhu et al. 2023 (arXiv 2301.11270).
    """
    rest_R_K = torch.logcumsumexp(reward_R_K.flip(1), dim=1).flip(1)
    return (rest_R_K - reward_R_K).sum(1)
