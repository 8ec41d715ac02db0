"""Does the policy fall apart? What shows it long before a reader would: answers shrink, become alike, certain or
random, do not end, or leave the reference. No torch in here.

SAWYER's own PPO run shows the order of events: the reward rises to the ceiling of the reward model while the text loses
its sense, and then the answers shrink to two words and never recover.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from sawyer.settings import Settings


class CollapseSettings(Settings):
    """What counts as collapse, and what is done about it. Shares are of what the first rollout measured; 0 switches a
    sign off."""

    action: Literal["stop", "rollback", "warn"] = "stop"
    """`stop` ends the training with the best policy so far; `rollback` goes back to it and doubles the coefficient of
    the KL; `warn` says so and goes on."""
    patience: int = Field(default=3, ge=1)
    """So many steps in a row must show a sign."""
    rollbacks: int = Field(default=2, ge=1)
    """With `rollback`: after so many it stops."""
    length: float = Field(default=0.25, ge=0, lt=1)
    """Completions are shorter than this share."""
    diversity: float = Field(default=0.5, ge=0, lt=1)
    """Distinct-2 of a prompt's completions is below this share."""
    entropy: float = Field(default=0.1, ge=0, lt=1)
    """The entropy of a token is below this share."""
    disorder: float = Field(default=3.0, ge=0)
    """The entropy of a token is above so many times the first."""
    finished: float = Field(default=0.1, ge=0, lt=1)
    """The share of completions that end is below this share of what it was."""


_BELOW = {
    "length": ("completion_tokens", "completions have {value:.1f} tokens, {first:.1f} at first"),
    "diversity": ("distinct_2", "distinct-2 is {value:.2f}, {first:.2f} at first"),
    "entropy": ("entropy", "the entropy of a token is {value:.2f} nats, {first:.2f} at first"),
    "finished": ("finished", "{value:.0%} of completions end, {first:.0%} at first"),
}


class CollapseDetector:
    """Looks at one rollout after another.

    Args:
        settings: what counts as collapse.
        ceiling: KL of a completion, in nats, above which a rollout shows a sign; None for none.
    """

    def __init__(self, settings: CollapseSettings, ceiling: float | None = None) -> None:
        self.settings, self.ceiling = settings, ceiling
        self.first: dict[str, float] | None = None
        self.row = 0
        self.rollbacks = 0

    def look(self, figures: Mapping[str, float]) -> str | None:
        """What is wrong, once it has been so for `patience` steps in a row.

        Args:
            figures: of a rollout: `completion_tokens`, `distinct_2`, `entropy`, `finished` and `kl`.
        """
        if self.first is None:
            self.first = {name: float(figures[name]) for name, _ in _BELOW.values()}
        signs = self.signs(figures)
        self.row = self.row + 1 if signs else 0
        if self.row < self.settings.patience:
            return None
        self.row = 0
        return "; ".join(signs)

    def signs(self, figures: Mapping[str, float]) -> list[str]:
        """Every sign that a rollout shows, as text."""
        assert self.first is not None
        found = []
        for setting, (name, text) in _BELOW.items():
            share, value, first = getattr(self.settings, setting), figures[name], self.first[name]
            if share and value < share * first:
                found.append(text.format(value=value, first=first))
        many, value, first = self.settings.disorder, figures["entropy"], self.first["entropy"]
        if many and value > many * first > 0:
            found.append(_BELOW["entropy"][1].format(value=value, first=first))
        if self.ceiling is not None and figures["kl"] > self.ceiling:
            found.append(f"the KL to the reference is {figures['kl']:.1f} nats, above the ceiling of {self.ceiling:g}")
        return found

    def state(self) -> dict[str, Any]:
        """What `load` goes on from."""
        return {"first": self.first, "row": self.row, "rollbacks": self.rollbacks}

    def load(self, state: Mapping[str, Any]) -> None:
        self.first, self.row, self.rollbacks = state["first"], state["row"], state["rollbacks"]
