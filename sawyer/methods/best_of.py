"""Best-of-n: several candidates, and the one that some feedback scores highest (Stiennon et al. 2020, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import Feedback
from sawyer.rollout.sampling import Sampling, check_sampling

if TYPE_CHECKING:
    import torch

    from sawyer.rollout.protocol import Completion, Engine


@dataclass(frozen=True)
class Choice:
    """The candidates of one prompt with their scores.

    Attributes:
        completions: in the order in which they were drawn.
        scores: one a completion; not a number for one that could not be had.
        best: the index of the highest score, the first of equals. A score that is not a number is never the best,
            unless all are.
    """

    completions: tuple[Completion, ...]
    scores: tuple[float, ...]

    @property
    def best(self) -> int:
        return max(range(len(self.scores)), key=lambda i: -math.inf if math.isnan(self.scores[i]) else self.scores[i])

    @property
    def completion(self) -> Completion:
        """The best of them. Its log-probs are of the draw, not of having been chosen."""
        return self.completions[self.best]


def best_of(
    engine: Engine,
    feedback: Feedback,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    n: int,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    keep_failed: bool = False,
) -> list[Choice]:
    """`n` candidates of each prompt, scored by the feedback, in the order of the prompts.

    Raises:
        SawyerError: the settings do not sample, so that all candidates would be the same.
    """
    if n > 1 and sampling.temperature == 0 and sampling.num_beams == 1:
        raise SawyerError(f"best of {n} with temperature 0 compares equal completions: set a temperature above 0")
    drawn = engine.generate(prompts, sampling, n, seed=seed, progress=progress, keep_failed=keep_failed)
    had = [[completion.text for completion in own if completion.error is None] for own in drawn]
    judged = [i for i, own in enumerate(had) if own]
    found = feedback.score([prompts[i] for i in judged], [had[i] for i in judged]) if judged else []
    of_prompt = {i: iter(scores) for i, scores in zip(judged, found, strict=True)}
    return [
        Choice(tuple(own), tuple(math.nan if one.error is not None else next(of_prompt[i]) for one in own))
        for i, own in enumerate(drawn)
    ]


class BestOfEngine:
    """An `Engine` whose every completion is the best of several of another engine's.

    Sample number i is the best of that engine's samples number `candidates` * i and the following, so it depends on
    seed, prompt and sample number as theirs do. The log-probs are theirs: not those of the distribution that best-of-n
    makes.
    """

    def __init__(self, engine: Engine, feedback: Feedback, candidates: int):
        """
        Raises:
            SawyerError: `candidates` is not positive.
        """
        if candidates < 1:
            raise SawyerError(f"best of {candidates}: ask for at least one candidate")
        self.engine, self.feedback, self.candidates = engine, feedback, candidates

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
        """See `Engine.generate`; `progress` counts the tokens of all candidates."""
        check_sampling(sampling, n)
        count = self.candidates
        choices = best_of(
            self.engine, self.feedback, prompts, sampling, n * count,
            seed=seed, progress=progress, keep_failed=keep_failed,
        )  # fmt: skip
        return [
            [
                Choice(c.completions[at : at + count], c.scores[at : at + count]).completion
                for at in range(0, n * count, count)
            ]
            for c in choices
        ]

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the trainer's weights to the engine."""
        self.engine.load(weights)
