"""What generates: the `Engine` protocol, and a completion with its exact log-probs. No torch is imported for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from sawyer.data.records import Prompt
from sawyer.rollout.sampling import Sampling

if TYPE_CHECKING:
    import torch

__all__ = ["Completion", "Engine", "Sampling"]


Top = tuple[str, dict[str, float]]
"""The text of a token, and the log-probs of the likeliest texts in its place."""


@dataclass(frozen=True)
class Completion:
    """One sampled completion, or why there is none.

    Attributes:
        ids: the sampled tokens, with the end token, stop token or last token of the stop string if it is `finished`.
            Empty where the engine does not see tokens: an API answers in text.
        logps: log-prob of each token under the distribution it was drawn from, same length as `ids`; 0 where nothing
            was drawn: greedy, beam and contrastive search. Of an engine that does not see tokens, whatever its own
            docstring says.
        text: the decoded text without special tokens, cut before a stop token or stop string.
        finished: whether it ended by itself, with an end token, stop token or stop string; False when it was cut at
            `max_tokens`.
        full_logps: log-prob of each token under the model's own distribution, softmax(logits) without temperature,
            penalties or filters; empty unless `Sampling.full_logps` asks for it.
        tops: of an engine that was made to give them, the text of each of the last tokens, with the log-probs of the
            likeliest texts in its place.
        error: None; or, only where a caller asked for `keep_failed`, the sentence why this completion does not exist.
            The other fields are empty then.
        again: of one with an `error`: whether asking again may help, because the fault lies with the engine or the
            endpoint and not with the prompt.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    finished: bool
    full_logps: tuple[float, ...] = ()
    tops: tuple[Top, ...] = ()
    error: str | None = None
    again: bool = False

    @classmethod
    def failed(cls, error: str, *, again: bool = False) -> Completion:
        """A completion that could not be had."""
        return cls((), (), "", False, error=error, again=again)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Completion:
        """The completion that `row` wrote."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        if "tops" in values:
            values["tops"] = tuple((token, likeliest) for token, likeliest in values["tops"])
        return cls(**values)

    def row(self) -> dict[str, Any]:
        """As a JSON object; what is at its default (such as `error`) is left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


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
        keep_failed: bool = False,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt. A completion depends on the seed, its prompt and its sample number.

        `progress` is called with the number of newly generated tokens.

        A prompt that cannot be answered (empty, longer than the context, refused by an endpoint) is an error that stops
        everything, because training on what is missing would go unnoticed. With `keep_failed` the others are answered
        all the same, and `Completion.error` says of each missing completion why: the caller has to look at it. What
        concerns every prompt (contradictory settings, an endpoint that is down) is an error either way.

        Raises:
            SawyerError: see above; it names the prompt by its index.
        """
        ...

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the trainer's current weights, in memory."""
        ...
