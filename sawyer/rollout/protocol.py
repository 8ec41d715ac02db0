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
        ids: the sampled tokens, with the end token, stop token or last token of the stop string if it is `finished`.
        logps: log-prob of each token under the distribution it was drawn from, same length as `ids`; 0 where nothing
            was drawn: greedy, beam and contrastive search.
        text: the decoded text without special tokens, cut before a stop token or stop string.
        finished: whether it ended by itself, with an end token, stop token or stop string; False when it was cut at
            `max_tokens`.
        full_logps: log-prob of each token under the model's own distribution, softmax(logits) without temperature,
            penalties or filters; empty unless `Sampling.full_logps` asks for it.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    finished: bool
    full_logps: tuple[float, ...] = ()


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
