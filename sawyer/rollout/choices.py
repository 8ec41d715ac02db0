"""How likely a model is to go on with each of a few texts: what a judge's verdict is worth in probabilities.

    P(option) = product over the tokens of the option of  p(token) / (sum of p over the tokens that an option has there)

That is the chance that the model writes it where it may write nothing but one of the options. Options of which one
begins another (1 and 10) are told apart by what ends them.

The text is tokenised anew, so tokens may differ from those that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.rollout.kv_cache import KVCache
from sawyer.rollout.protocol import Completion, Sampling
from sawyer.rollout.search import DIVERGED

if TYPE_CHECKING:
    from sawyer.rollout.torch_engine import TorchEngine

Tokens = tuple[int, ...]
BATCH_TOKENS = 8192
"""Most tokens at a time: nothing is decoded afterwards, so that more would only take memory."""
IMPOSSIBLE = -9999.0
"""The log-prob of what has no probability at all, as endpoints write it: JSON has no infinity."""


class ChoiceEngine:
    """An engine that may answer nothing but one of a few texts: it gives the likeliest, and in `Completion.tops` the
    chances of all.

    Args:
        engine: whose model answers.
        options: the texts.
        opening, ending: what stands before and after each.
    """

    def __init__(self, engine: TorchEngine, options: Sequence[str], opening: str = "", ending: str = "") -> None:
        self.engine, self.options, self.opening, self.ending = engine, list(options), opening, ending

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
        """See `Engine.generate`. Nothing is drawn: `temperature` must be 0, and equal samples are computed once.

        Raises:
            SawyerError: something is to be drawn; or, without `keep_failed`, a prompt is too long, or the model has
                diverged.
        """
        if sampling.temperature > 0:
            raise SawyerError("an engine that chooses among texts takes the likeliest: it needs temperature 0")
        found = choice_probabilities(self.engine, prompts, [self.opening] * len(prompts), self.options, self.ending)
        answers = [self._answer(own) for own in found]
        for index, answer in enumerate(answers):
            if answer.error is not None and not keep_failed:
                raise SawyerError(f"prompt {index}: {answer.error}")
        if progress is not None:
            progress(len(prompts))
        return [[answer] * n for answer in answers]

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.load`."""
        self.engine.load(weights)

    def _answer(self, chances: list[float] | None) -> Completion:
        if chances is None:
            return Completion.failed(f"the prompt is longer than the model's context of {self.engine.context}")
        if not all(map(math.isfinite, chances)):
            return Completion.failed(DIVERGED)
        best = self.options[max(range(len(chances)), key=chances.__getitem__)]
        likely = {
            option: math.log(chance) if chance > 0 else IMPOSSIBLE
            for option, chance in zip(self.options, chances, strict=True)
        }
        parts = [(self.opening, {self.opening: 0.0}), (best, likely), (self.ending, {self.ending: 0.0})]
        tops = tuple(part for part in parts if part[0])
        return Completion((), (), f"{self.opening}{best}{self.ending}", True, tops=tops)


def choice_probabilities(
    engine: TorchEngine, prompts: Sequence[Prompt], beginnings: Sequence[str], options: Sequence[str], ending: str = ""
) -> list[list[float] | None]:
    """For each prompt, P(option) of an answer that begins so and goes on with one of the options and the `ending`.

    None where that is longer than the model's context, or where two options are the same tokens. A model that has
    diverged gives what is no number.
    """
    paths = [
        [tuple(engine.chat.completion_ids(f"{beginning}{option}{ending}")[:-1]) for option in options]
        for beginning in beginnings
    ]
    asked = [tuple(engine.chat.prompt_ids(prompt.prompt)) for prompt in prompts]
    forks = [sorted(_forks(own)) for own in paths]
    fits = [
        engine.context is None or len(prompt) + max(map(len, own)) <= engine.context
        for prompt, own in zip(asked, paths, strict=True)
    ]
    places = [(i, fork) for i, own in enumerate(forks) if fits[i] for fork in own]
    logps: list[dict[Tokens, dict[int, float]]] = [{} for _ in asked]
    with engine.ready():
        budget = min(engine.limits.token_budget, BATCH_TOKENS)
        for some in _batches(places, [len(asked[i]) + len(fork) for i, fork in places], budget):
            rows = [(*asked[i], *fork) for i, fork in some]
            cache = KVCache(len(rows), max(map(len, rows)))
            hidden = engine.prefill(rows, [(slot,) for slot in range(len(rows))], cache)
            logits_A_V = engine.logits(torch.stack([hidden_T_D[-1] for hidden_T_D in hidden])).float()
            for (i, fork), logits_V in zip(some, logits_A_V, strict=True):
                following = sorted({path[len(fork)] for path in paths[i] if path[: len(fork)] == fork})
                chosen = torch.log_softmax(logits_V[following].double(), 0).tolist()
                logps[i][fork] = dict(zip(following, chosen, strict=True))
    return [
        _probabilities(own, logps[i]) if fits[i] and len(set(own)) == len(own) else None for i, own in enumerate(paths)
    ]


def _forks(paths: Sequence[Tokens]) -> set[Tokens]:
    """Where paths part: beginnings that go on in several ways."""
    following: dict[Tokens, set[int]] = {}
    for path in paths:
        for at, token in enumerate(path):
            following.setdefault(path[:at], set()).add(token)
    return {beginning for beginning, tokens in following.items() if len(tokens) > 1}


def _probabilities(paths: Sequence[Tokens], logps: dict[Tokens, dict[int, float]]) -> list[float]:
    return [
        math.exp(sum(logps[path[:at]][token] for at, token in enumerate(path) if path[:at] in logps)) for path in paths
    ]


def _batches(
    places: Sequence[tuple[int, Tokens]], lengths: Sequence[int], budget: int
) -> Iterator[list[tuple[int, Tokens]]]:
    """Runs of places whose caches hold at most `budget` tokens; a longer one is a run of its own."""
    batch: list[tuple[int, Tokens]] = []
    longest = 0
    for place, length in zip(places, lengths, strict=True):
        if batch and (len(batch) + 1) * max(longest, length) > budget:
            yield batch
            batch, longest = [], 0
        batch.append(place)
        longest = max(longest, length)
    if batch:
        yield batch
