"""What any reward model must beat: chance, and the length of the text."""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.data.records import Prompt
from sawyer.feedback.protocol import uniform


class RandomScore:
    """A number between 0 and 1 drawn for each prompt and completion: the same whatever else is scored with it."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`."""
        return [
            [uniform(self.seed, list(prompt.prompt), text) for text in own]
            for prompt, own in zip(prompts, completions, strict=True)
        ]


class LengthScore:
    """The number of characters of a completion; with `shorter`, minus that."""

    def __init__(self, *, shorter: bool = False) -> None:
        self.name = "shorter" if shorter else "length"
        self._sign = -1.0 if shorter else 1.0

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`."""
        return [[self._sign * len(text) for text in own] for own in completions]
