"""What a preference loss may look at: log-probs of completions under the policy and under its reference.

Shapes: S is any shape, mostly `[P]` for P pairs, one element a completion.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass(frozen=True)
class Completions:
    """One completion of each of S prompts.

    Attributes:
        logp_S: log pi(y | x), the sum over the completion's tokens, in nats.
        tokens_S: how many tokens that is a sum over.
        reference_logp_S: the same under the reference; None where there is none.
        score_S: what a feedback says of the completion: a reward, or the probability of winning. None where unknown.
        shared_logp_S: the part of `logp_S` of the first tokens, as many as the pair's shorter completion has.
        shared_reference_logp_S: the same under the reference.
        collision_S: log sum_v p(v)^2 where each token is predicted, summed over the tokens: what `logp_S` would be on
            average of tokens drawn from the policy, as TRL reckons it. No gradient goes through it.
    """

    logp_S: torch.Tensor
    tokens_S: torch.Tensor
    reference_logp_S: torch.Tensor | None = None
    score_S: torch.Tensor | None = None
    shared_logp_S: torch.Tensor | None = None
    shared_reference_logp_S: torch.Tensor | None = None
    collision_S: torch.Tensor | None = None

    @property
    def ratio_S(self) -> torch.Tensor:
        """log pi/ref, the u of the papers."""
        return self.logp_S - self.needed("reference_logp_S")

    @property
    def mean_logp_S(self) -> torch.Tensor:
        """log pi a token."""
        return self.logp_S / self.tokens_S

    @property
    def mean_ratio_S(self) -> torch.Tensor:
        """log pi/ref a token."""
        return self.ratio_S / self.tokens_S

    def at(self, index: Any) -> Completions:
        """Those that a tensor's index of theirs picks."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        picked: dict[str, Any] = {name: None if value is None else value[index] for name, value in given.items()}
        return Completions(**picked)

    def tail_scaled(self, alpha: float) -> Completions:
        """The log-probs of what is longer than the pair's other completion times `alpha` (LD-DPO)."""
        shared_S, reference_S = self.needed("shared_logp_S"), self.needed("shared_reference_logp_S")
        return Completions(
            shared_S + alpha * (self.logp_S - shared_S),
            self.tokens_S,
            reference_S + alpha * (self.needed("reference_logp_S") - reference_S),
        )

    def needed(self, name: str) -> torch.Tensor:
        """An attribute that must be there.

        Raises:
            ValueError: it is not.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"this loss needs `{name}` of every completion, and there is none")
        return value


@dataclass(frozen=True)
class Pairs:
    """P pairs: the chosen completions (w, for winner) and the rejected ones (l)."""

    chosen: Completions
    rejected: Completions

    @property
    def h_P(self) -> torch.Tensor:
        """(log pi/ref)(y_w) - (log pi/ref)(y_l)."""
        return self.chosen.ratio_S - self.rejected.ratio_S
