"""Estimators of KL(pi || ref) from tokens drawn from pi, one number a token.

With log-ratio l = log pi - log ref (Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html):

    k1    l                       unbiased, may be negative
    k2    l^2 / 2                 biased, never negative
    k3    exp(-l) - 1 + l         unbiased, never negative

As a reward their values count, and k1 is the one whose policy gradient is that of the KL. As a loss their gradients
count: that of k1, grad log pi, has mean 0 and holds nothing back; that of k2, l grad log pi, is the gradient of
KL(pi || ref) on average; that of k3, (1 - ref / pi) grad log pi, is on average that of KL(ref || pi), which agrees with
the former near the reference (Tang & Munos 2025, arXiv 2506.09477).

Shapes: N tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def k1(logp_N: torch.Tensor, reference_logp_N: torch.Tensor) -> torch.Tensor:
    """`[N]` log pi - log ref."""
    return logp_N - reference_logp_N


def k2(logp_N: torch.Tensor, reference_logp_N: torch.Tensor) -> torch.Tensor:
    """`[N]` (log pi - log ref)^2 / 2."""
    return 0.5 * (logp_N - reference_logp_N) ** 2


def k3(logp_N: torch.Tensor, reference_logp_N: torch.Tensor) -> torch.Tensor:
    """`[N]` ref / pi - 1 - log(ref / pi)."""
    back_N = reference_logp_N - logp_N
    return back_N.expm1() - back_N


ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
