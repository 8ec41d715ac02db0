"""How strongly the policy is held to its reference. No torch in here: recipes are checked without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from sawyer.settings import Settings


class KLSettings(Settings):
    """The KL to the reference: where it enters, how it is estimated, how its coefficient moves."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    where: Literal["reward", "loss"] | None = Field(default=None, alias="as")
    """`as`: taken off the reward of each token, or added to the loss; as the estimator's paper has it by default."""
    estimator: Literal["k1", "k2", "k3"] | None = None
    """Of log pi - log ref = l: `k1` is l, `k2` is l^2 / 2, `k3` is exp(-l) - 1 + l."""
    coefficient: float | None = Field(default=None, ge=0)
    """beta, at the start; as the estimator's paper has it by default."""
    schedule: Literal["fixed", "adaptive", "linear", "cosine"] = "fixed"
    """`adaptive` steers the KL to `target`; `linear` and `cosine` go to `final` over the training."""
    target: float = Field(default=6.0, gt=0)
    """With `adaptive`: KL of a completion, in nats."""
    rate: float = Field(default=0.1, gt=0)
    """With `adaptive`: how fast, K_beta of Ziegler et al. TRL's horizon h is completions of a step / h."""
    final: float = Field(default=0.0, ge=0)
    """With `linear` and `cosine`: the coefficient at the end."""
    ceiling: float | None = Field(default=None, gt=0)
    """KL of a completion, in nats, above which a rollout counts as collapsed, and no policy is chosen as the best."""

    @model_validator(mode="after")
    def _options_that_do_something(self) -> KLSettings:
        for names, schedules in ((("target", "rate"), ("adaptive",)), (("final",), ("linear", "cosine"))):
            for name in names:
                if self.schedule not in schedules and getattr(self, name) != KLSettings.model_fields[name].default:
                    raise ValueError(f"`{name}` is for `schedule: {' or '.join(schedules)}`; leave it out")
        return self


class KLControl:
    """The coefficient of the KL, and how it moves.

    Args:
        settings: how.
        coefficient: beta at the start.
        total: steps in all.
    """

    def __init__(self, settings: KLSettings, coefficient: float, total: int) -> None:
        self.settings, self.start, self.total = settings, coefficient, total
        self.coefficient = coefficient

    def begin(self, step: int) -> float:
        """The coefficient of step `step` (from 0)."""
        if self.settings.schedule in ("linear", "cosine"):
            done = step / max(1, self.total - 1)
            share = 1 - done if self.settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
            return self.settings.final + (self.coefficient - self.settings.final) * share
        return self.coefficient

    def after(self, kl: float) -> None:
        """The step's mean KL of a completion, in nats: with `adaptive`, beta <- beta (1 + K clip(KL / target - 1, -0.2,
        0.2)).

        Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.
        """
        if self.settings.schedule == "adaptive":
            error = min(0.2, max(-0.2, kl / self.settings.target - 1))
            self.coefficient *= 1 + self.settings.rate * error

    def tighten(self, factor: float = 2.0) -> None:
        """Hold the policy closer from now on."""
        self.coefficient *= factor

    def state(self) -> dict[str, float]:
        """What `load` goes on from."""
        return {"coefficient": self.coefficient}

    def load(self, state: Mapping[str, float]) -> None:
        self.coefficient = state["coefficient"]
