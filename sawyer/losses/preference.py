"""Preference losses: pure functions of log-probs.

Shapes: P pairs. `chosen_logp_P` is log pi(y_w | x), the sum over the completion's tokens under the policy, in nats;
`reference_*` the same under the reference. Each returns `[P]`, one loss a pair, to be averaged by the caller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dpo(
    chosen_logp_P: torch.Tensor,
    rejected_logp_P: torch.Tensor,
    reference_chosen_logp_P: torch.Tensor,
    reference_rejected_logp_P: torch.Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Direct preference optimisation: -log sigmoid(beta * h), h = (log pi/ref)(y_w) - (log pi/ref)(y_l).

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7. With `label_smoothing` e it is the conservative form
    for labels that are wrong with probability e: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h) (Mitchell 2023).
    """
    h_P = (chosen_logp_P - reference_chosen_logp_P) - (rejected_logp_P - reference_rejected_logp_P)
    return -(1 - label_smoothing) * F.logsigmoid(beta * h_P) - label_smoothing * F.logsigmoid(-beta * h_P)
