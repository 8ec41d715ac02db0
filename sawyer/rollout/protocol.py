"""What generates: the `Engine` protocol, and a completion with its exact log-probs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sawyer.data.records import Prompt
from sawyer.rollout.sampling import Sampling

__all__ = ["Completion", "Engine", "Sampling"]


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Attributes:
        ids: the sampled tokens, the end token included when `finished`.
        logps: log-prob of each token under the distribution it was drawn from, same length as `ids`.
        text: the decoded text without special tokens.
        finished: whether it ended by itself; False when it was cut at `max_tokens`.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    finished: bool


class Engine(Protocol):
    """Generates completions. Takes batches and keeps their order."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt. A completion depends on the seed, its prompt and its sample number.

        `progress` is called with the number of newly generated tokens.
        """
        ...

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the trainer's current weights, in memory."""
        ...
