"""What generates: the `Engine` protocol, the sampling settings, and a completion with its exact log-probs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field

from sawyer.data.records import Prompt
from sawyer.settings import Settings


class Sampling(Settings):
    """How completions are drawn."""

    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits before the softmax; 0 is greedy."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: keep the smallest set of tokens whose probability reaches p."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest completion, in tokens, the end token included."""
    min_tokens: int = Field(default=0, ge=0)
    """The end token is forbidden before this many tokens."""


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
