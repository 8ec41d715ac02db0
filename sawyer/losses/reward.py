"""Losses for reward models: pure functions of rewards.

Shapes: P pairs, R rankings of K completions, C completions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def bradley_terry(
    chosen_reward_P: torch.Tensor,
    rejected_reward_P: torch.Tensor,
    *,
    margin_P: torch.Tensor | float = 0.0,
    scale_P: torch.Tensor | float = 1.0,
    weight_P: torch.Tensor | float = 1.0,
    label_smoothing: float = 0.0,
    centring: float = 0.0,
) -> torch.Tensor:
    """`[P]` weight * [-(1 - e) log sigmoid(m) - e log sigmoid(-m)] + centring * (r_w + r_l)^2, where
    m = scale * (r_w - r_l) - margin and e is the label smoothing.

    Source: Bradley & Terry 1952 as in Ouyang et al. 2022, equation 1; the margin is Llama 2's (arXiv 2307.09288,
    equation 2); a scale is SAWYER's, the square of the difference in score; smoothing takes a label for wrong at rate
    e (Mitchell 2023, as in conservative DPO); centring keeps the mean reward near zero (Eisenstein et al. 2023, arXiv
    2312.09244) and is not weighted.

    Raises:
        ValueError: the shapes would broadcast, so that a pair would be shaped by another pair's number.
    """
    shape = chosen_reward_P.shape
    numbers = (rejected_reward_P, margin_P, scale_P, weight_P)
    if any(isinstance(given, torch.Tensor) and given.shape != shape for given in numbers):
        raise ValueError(f"rewards, margins, scales and weights of pairs must all have the shape {tuple(shape)}")
    m_P = scale_P * (chosen_reward_P - rejected_reward_P) - margin_P
    loss_P = -F.logsigmoid(m_P)
    if label_smoothing:
        loss_P = (1 - label_smoothing) * loss_P - label_smoothing * F.logsigmoid(-m_P)
    loss_P = weight_P * loss_P
    if centring:
        loss_P = loss_P + centring * (chosen_reward_P + rejected_reward_P) ** 2
    return loss_P


def plackett_luce(reward_R_K: torch.Tensor) -> torch.Tensor:
    """`[R]` negative log-likelihood of whole rankings, rewards given best first: -sum_k [r_k - logsumexp_{j >= k} r_j].

    With K = 2 it equals `bradley_terry`. Source: Plackett 1975; Zhu et al. 2023 (arXiv 2301.11270).
    """
    rest_R_K = torch.logcumsumexp(reward_R_K.flip(1), dim=1).flip(1)
    return (rest_R_K - reward_R_K).sum(1)


def disentangled(
    quality_C: torch.Tensor, length_C: torch.Tensor, tokens_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What holds ODIN's two heads apart, (1 - corr(tokens, length head)) + |corr(tokens, quality head)|: the sum, and
    the correlations of the length and of the quality head with the number of tokens.

    Over fewer than three completions a correlation is 1 or -1 whatever the heads say, so all three are 0, as they are
    for a head or lengths that do not vary. Source: ODIN (Chen et al. 2024, arXiv 2402.07319, section 4).
    """
    if len(tokens_C) < 3:
        zero = quality_C.sum() * 0
        return zero, zero.detach(), zero.detach()
    with_length, with_quality = correlation(tokens_C, length_C), correlation(tokens_C, quality_C)
    return (1 - with_length) + with_quality.abs(), with_length.detach(), with_quality.detach()


def correlation(a_C: torch.Tensor, b_C: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation; 0 where either does not vary."""
    a_C, b_C = a_C - a_C.mean(), b_C - b_C.mean()
    square = (a_C**2).sum() * (b_C**2).sum()
    return (a_C * b_C).sum() * (square + 1e-12).rsqrt()
