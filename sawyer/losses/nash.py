"""The loss of Nash mirror descent: a pure function of log-probs, one an answer, to be averaged by the caller.

Shapes: C completions, one of each prompt.
"""

from __future__ import annotations

import torch


def nash_md(
    logp_C: torch.Tensor, reference_logp_C: torch.Tensor, preference_C: torch.Tensor, *, beta: float = 0.1
) -> torch.Tensor:
    """-[P - 1/2 - b (log pi/ref)(y)] log pi(y), the bracket held constant: its gradient is Nash-MD's policy gradient
    (Munos et al. 2023, arXiv 2312.00886, section 7; their tau is b).

    P is the probability that y, drawn from the policy, beats an answer drawn from the mixture; 1/2 is a baseline.
    TRL's NashMDTrainer weighs each token's log-prob by that token's log-ratio alone, which leaves out what a token does
    to the log-ratios after it; the two agree for answers of one token.

    Args:
        logp_C: log pi(y | x), the sum over the tokens, in nats.
        reference_logp_C: the same under the reference.
        preference_C: P, in [0, 1].
    """
    advantage_C = preference_C - 0.5 - beta * (logp_C - reference_logp_C).detach()
    return -advantage_C * logp_C
