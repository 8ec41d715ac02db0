"""An engine that asks a policy for answers with certain attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sawyer.data.attributes import conditioned_prompt
from sawyer.data.records import Prompt
from sawyer.rollout.protocol import Completion, Engine, Sampling

if TYPE_CHECKING:
    import torch


class ConditionedEngine:
    """An `Engine` that puts the attributes at the end of each prompt. Who scores the completions has the prompts
    without.

    Args:
        engine: what answers.
        values: every attribute of the policy's scheme, as `Scheme.filled` gives them.
    """

    def __init__(self, engine: Engine, values: Mapping[str, int]) -> None:
        self.engine, self.values = engine, dict(values)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        keep_failed: bool = False,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        asked = [conditioned_prompt(prompt, self.values) for prompt in prompts]
        return self.engine.generate(asked, sampling, n, seed=seed, progress=progress, keep_failed=keep_failed)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the trainer's weights to the engine."""
        self.engine.load(weights)
