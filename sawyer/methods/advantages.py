"""How much better than expected each token was: advantage estimators over ragged completions.

Nothing is padded: the tokens of all completions of a rollout batch stand end to end, completion after completion,
prompt after prompt. Rewards are per token: KL penalties where they fall, a completion's score on its last token.

Shapes: N tokens, C completions, R prompts.
"""

from __future__ import annotations

import torch

from sawyer.methods.estimators import ESTIMATORS


def advantages(
    name: str,
    reward_N: torch.Tensor,
    completion_index_N: torch.Tensor,
    tree_index_C: torch.Tensor,
    *,
    value_N: torch.Tensor | None = None,
    baseline: float = 0.0,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> torch.Tensor:
    """`[N]` advantages by the estimator `name` of `methods.estimators`, before any whitening.

    Args:
        reward_N: what each token earned.
        completion_index_N: the completion of each token, ascending.
        tree_index_C: the prompt of each completion, ascending.
        value_N: of the state before each token; for `gae`.
        baseline: for `reinforce`: what is expected of any completion.
        gamma, gae_lambda: discounts, where rewards count token by token.

    Raises:
        ValueError: no such estimator; `gae` without values.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"there is no estimator {name!r}")
    if ESTIMATORS[name].values and value_N is None:
        raise ValueError(f"{name} needs values")
    if name == "gae":
        assert value_N is not None
        return gae(reward_N, value_N, completion_index_N, gamma=gamma, gae_lambda=gae_lambda)
    if name == "reinforce++":
        return to_go(reward_N, completion_index_N, gamma)
    return_C = returns(reward_N, completion_index_N, len(tree_index_C))
    if name == "reinforce":
        return (return_C - baseline)[completion_index_N]
    of_prompt = {"rloo": rloo, "grpo": grpo, "dr_grpo": dr_grpo}[name]
    return of_prompt(return_C, tree_index_C)[completion_index_N]


def token_rewards(
    score_C: torch.Tensor, completion_index_N: torch.Tensor, kl_N: torch.Tensor | None = None, coefficient: float = 0.0
) -> torch.Tensor:
    """`[N]` -coefficient * KL at each token, and the completion's score at its last one.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), equation 2, taken token by token.
    """
    reward_N = torch.zeros_like(completion_index_N, dtype=torch.float32) if kl_N is None else -coefficient * kl_N
    start_C, length_C = spans(completion_index_N, len(score_C))
    return reward_N.index_add(0, start_C + length_C - 1, score_C)


def gae(
    reward_N: torch.Tensor,
    value_N: torch.Tensor,
    completion_index_N: torch.Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> torch.Tensor:
    """`[N]` A_t = sum_k (gamma lambda)^k d_{t+k} with d_t = r_t + gamma V_{t+1} - V_t, and V = 0 after the last token.

    Source: Schulman et al. 2016 (arXiv 1506.02438), equations 9 and 16.
    """
    last_N = torch.ones_like(completion_index_N, dtype=torch.bool)
    last_N[:-1] = completion_index_N[1:] != completion_index_N[:-1]
    next_N = value_N.roll(-1).masked_fill(last_N, 0.0)
    return to_go(reward_N + gamma * next_N - value_N, completion_index_N, gamma * gae_lambda)


def to_go(value_N: torch.Tensor, completion_index_N: torch.Tensor, discount: float = 1.0) -> torch.Tensor:
    """`[N]` sum over the rest of the token's completion, sum_k discount^k x_{t+k}."""
    start_C, length_C = spans(completion_index_N, int(completion_index_N[-1]) + 1 if len(completion_index_N) else 0)
    order_C = length_C.argsort(descending=True, stable=True)
    start_C, length_C = start_C[order_C], length_C[order_C]
    ahead_C = value_N.new_zeros(len(start_C))
    out_N = torch.empty_like(value_N)
    lengths = length_C.tolist()
    running = 0  # completions that have a token at this place: the longest ones
    for place in reversed(range(lengths[0] if lengths else 0)):
        while running < len(lengths) and lengths[running] > place:
            running += 1
        at_c = start_C[:running] + place
        ahead_C[:running] = value_N[at_c] + discount * ahead_C[:running]
        out_N[at_c] = ahead_C[:running]
    return out_N


def returns(reward_N: torch.Tensor, completion_index_N: torch.Tensor, completions: int) -> torch.Tensor:
    """`[C]` the sum of a completion's rewards."""
    return reward_N.new_zeros(completions).index_add(0, completion_index_N, reward_N)


def rloo(return_C: torch.Tensor, tree_index_C: torch.Tensor) -> torch.Tensor:
    """`[C]` R_i - mean of R_j over the prompt's other completions j; needs two at least.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), equation 8; Kool et al. 2019.
    """
    sum_C, count_C = _by_prompt(return_C, tree_index_C)
    return return_C - (sum_C - return_C) / (count_C - 1)


def grpo(return_C: torch.Tensor, tree_index_C: torch.Tensor, *, eps: float = 1e-4) -> torch.Tensor:
    """`[C]` (R_i - mean) / (std + eps) over the prompt's completions, std with n - 1 in the denominator.

    Source: Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; the epsilon and the kind of deviation are TRL's.
    """
    centred_C = dr_grpo(return_C, tree_index_C)
    square_C, count_C = _by_prompt(centred_C**2, tree_index_C)
    return centred_C / ((square_C / (count_C - 1)).sqrt() + eps)


def dr_grpo(return_C: torch.Tensor, tree_index_C: torch.Tensor) -> torch.Tensor:
    """`[C]` R_i - mean over the prompt's completions: without the division, prompts on which all do alike weigh no more
    than others.

    Source: Liu et al. 2025 (arXiv 2503.20783), section 3.2.
    """
    sum_C, count_C = _by_prompt(return_C, tree_index_C)
    return return_C - sum_C / count_C


def whiten(value_N: torch.Tensor, *, eps: float = 1e-8) -> torch.Tensor:
    """`[N]` (x - mean) / sqrt(var + eps) over all of them, var with N - 1 in the denominator; a single one becomes 0.

    It belongs to the whole rollout batch: over a mini-batch of one completion it would take away whether that was good.
    Source: Huang et al. 2024, "The N implementation details of RLHF with PPO"; as in TRL.
    """
    centred_N = value_N - value_N.mean()
    return centred_N * ((centred_N**2).sum() / max(1, len(value_N) - 1) + eps).rsqrt()


def spans(completion_index_N: torch.Tensor, completions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[C]` where each completion begins, and `[C]` how many tokens it has.

    Raises:
        ValueError: a completion has no token, or the tokens do not stand completion after completion.
    """
    length_C = torch.bincount(completion_index_N, minlength=completions)
    if len(length_C) != completions or bool((length_C == 0).any()) or bool((completion_index_N.diff() < 0).any()):
        raise ValueError("tokens must stand completion after completion, at least one of each")
    return length_C.cumsum(0) - length_C, length_C


def _by_prompt(value_C: torch.Tensor, tree_index_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[C]` the sum over the completion's prompt, and `[C]` how many completions that has."""
    count_R = torch.bincount(tree_index_C)
    sum_R = value_C.new_zeros(len(count_R)).index_add(0, tree_index_C, value_C)
    return sum_R[tree_index_C], count_R[tree_index_C].to(value_C.dtype)
