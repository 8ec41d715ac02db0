"""From scores to rewards: several models as one, normalised, clipped, with penalties. No torch in here.

Shapes: C completions of a rollout batch, prompt after prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sawyer.feedback.protocol import sigmoid
from sawyer.methods.running import RunningMoments
from sawyer.settings import Settings

Normalise = Literal["none", "running", "batch"]


class ShapingSettings(Settings):
    """What happens to a score before it is a reward, in this order."""

    normalise: Normalise = "none"
    """To mean 0 and deviation 1: over all scores so far (`running`), or those of the step (`batch`, as Llama 2)."""
    clip: float | None = Field(default=None, gt=0)
    """Scores are kept within -clip and clip."""
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from completions that were cut off before they ended."""
    length_penalty: float = Field(default=0.0, ge=0)
    """Subtracted for each token."""


@dataclass(frozen=True)
class Part:
    """How one of several scores enters.

    Attributes:
        weight: what it is multiplied by.
        normalise: brings it to mean 0 and deviation 1 first.
        below: it does not add to the others but takes their place where the sigmoid of the score as it came is below
            this, or where the prompt is marked for it (Llama 2's safety model: 0.15).
    """

    weight: float = 1.0
    normalise: Normalise = "none"
    below: float | None = None


class Shaper:
    """Scores to rewards, with what is remembered from step to step.

    Held-out scores are normalised as those of the first call were and not clipped, so that they can be compared over
    the training.
    """

    def __init__(self, settings: ShapingSettings, parts: Sequence[Part] = (Part(),)) -> None:
        self.settings, self.parts = settings, list(parts)
        self._running = [RunningMoments() for _ in range(len(parts) + 1)]  # of each part, and of what they make
        self._held_out = [RunningMoments() for _ in range(len(parts) + 1)]

    def rewards(
        self,
        scores: Sequence[Sequence[float]],
        tokens: Sequence[int],
        ended: Sequence[bool],
        marked: Sequence[bool] | None = None,
        *,
        held_out: bool = False,
    ) -> list[float]:
        """The reward of each completion, from `[parts][C]` scores.

        Args:
            tokens, ended: of each completion, its length and whether it was not cut off.
            marked: which completions are of prompts where parts with `below` always decide.
        """
        whole = self._scaled(self._combined(scores, marked, held_out), self.settings.normalise, -1, held_out)
        clip = self.settings.clip
        if clip is not None and not held_out:
            whole = [max(-clip, min(clip, score)) for score in whole]
        return [
            score - self.settings.length_penalty * count - (0.0 if own else self.settings.missing_eos_penalty)
            for score, count, own in zip(whole, tokens, ended, strict=True)
        ]

    def _combined(
        self, scores: Sequence[Sequence[float]], marked: Sequence[bool] | None, held_out: bool
    ) -> list[float]:
        """The weighted sum of the parts, unless one takes over.

        Source: the rule of two models is that of Llama 2 (Touvron et al. 2023, arXiv 2307.09288, section 3.2.3, R_c).
        """
        ready = [
            self._scaled(own, part.normalise, p, held_out)
            for p, (own, part) in enumerate(zip(scores, self.parts, strict=True))
        ]
        guards = [p for p, part in enumerate(self.parts) if part.below is not None]
        others = [p for p, part in enumerate(self.parts) if part.below is None]

        def deciding(c: int) -> list[int]:
            for p in guards:
                below = self.parts[p].below
                if (marked is not None and marked[c]) or (below is not None and sigmoid(scores[p][c]) < below):
                    return [p]
            return others

        return [sum(self.parts[p].weight * ready[p][c] for p in deciding(c)) for c in range(len(scores[0]))]

    def _scaled(self, scores: Sequence[float], how: Normalise, place: int, held_out: bool) -> list[float]:
        if how == "none":
            return list(scores)
        if held_out:
            moments = self._held_out[place]
            if not moments.count:
                moments.add(scores)
        else:
            moments = self._running[place] if how == "running" else RunningMoments()
            moments.add(scores)
        return moments.normalised(scores)

    def state(self) -> dict[str, list[dict[str, float]]]:
        """What `load` goes on from, as JSON."""
        return {"running": [m.state() for m in self._running], "held_out": [m.state() for m in self._held_out]}

    def load(self, state: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
        self._running = [RunningMoments(own) for own in state["running"]]
        self._held_out = [RunningMoments(own) for own in state["held_out"]]
