"""A language model as judge: it reads answers, says why, and ends with a verdict (Zheng et al. 2023, "Judging
LLM-as-a-judge").

`prefer` shows two answers as A and B. Which is A is a coin of the seed, the prompt and the two texts, so that a lean
towards one position falls on chosen and rejected alike, and a swapped pair is the same question; with `both_orders` the
judge is asked twice and the two verdicts are averaged. `score` asks for a rating from 1 to 10 of each answer by itself.
An answer without a verdict counts as a draw, a rating that cannot be read as -1, below all others. So does a question
that cannot be asked (too long, refused by a filter); one that would be answered another time is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from sawyer.data.records import Message, Prompt, user
from sawyer.feedback.asking import Asker
from sawyer.feedback.judge_template import block, conversation_block
from sawyer.feedback.judges import UNREADABLE, drawn, orders
from sawyer.rollout.protocol import Engine

COMPARE = (
    "You compare two answers that two AI assistants gave to the same user. Find out which of them serves the user "
    "better: does it do what was asked, is what it says true, does it leave nothing important out and put nothing "
    "useless in, is it safe, and is it clear? Neither the order in which the answers stand nor their length may sway "
    "you. First explain in a few sentences how they differ. Then end with your verdict and nothing after it: [[A]] if "
    "the answer of assistant A is better, [[B]] if that of assistant B is. There is no draw."
)
Grade = Literal["quality", "correctness"]
RATE: dict[Grade, str] = {
    "quality": (
        "You grade the answer that an AI assistant gave to a user: does it do what was asked, is what it says true, "
        "does it leave nothing important out and put nothing useless in, is it safe, and is it clear? First explain "
        "your judgement in a few sentences. Then end with a whole number from 1 (useless) to 10 (could not be better) "
        "in double brackets, such as [[5]], and nothing after it."
    ),
    "correctness": (
        "You grade whether the answer that an AI assistant gave to a user is right: a valid answer to what was asked, "
        "and true. Nothing else may count: a short answer that is right deserves as much as a long one, and all right "
        "answers deserve the same grade, however deep or detailed they are. First explain your judgement in a few "
        "sentences. Then end with a whole number from 1 (wrong) to 10 (right) in double brackets, such as [[5]], and "
        "nothing after it."
    ),
}
_VERDICT = re.compile(r"\[\[([AB])\]\]")
_RATING = re.compile(r"\[\[(\d{1,2})\]\]")


class Judge:
    """A judge on any engine, local or remote.

    Args:
        engine: what answers.
        both_orders: ask for each pair twice, the answers changed round.
        grade: what a rating is about: `quality`, or `correctness` alone.
        max_tokens: longest answer of the judge.
        seed: of the coin that says which answer is A, and of the engine.

    Attributes:
        answered: questions answered so far.
        unread: questions so far without an answer, or whose answer held no verdict or rating.
    """

    name = "judge"

    def __init__(
        self,
        engine: Engine,
        *,
        both_orders: bool = False,
        grade: Grade = "quality",
        max_tokens: int = 2048,
        seed: int = 0,
    ) -> None:
        self.engine, self.both_orders, self.grade, self.seed = engine, both_orders, grade, seed
        self._asker = Asker(engine, max_tokens=max_tokens, seed=seed)

    @property
    def answered(self) -> int:
        return self._asker.answered

    @property
    def unread(self) -> int:
        return self._asker.unread

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(the first of a pair is better): 1, 0 or 0.5, with both orders also 0.25 and 0.75."""
        return [drawn(games) for games in self.verdicts(prompts, pairs)]

    def verdicts(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[list[float | None]]:
        """For each pair its games, one or two: 1.0 the first won, 0.0 the second did, None no verdict.

        Two equal texts are not compared: they have one game without a verdict.
        """
        games = [
            (i, shown)
            for i, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True))
            for shown in orders(self.seed, prompt, pair, both=self.both_orders)
        ]
        asked = [comparison_prompt(prompts[i].prompt, *(pairs[i][side] for side in shown)) for i, shown in games]
        results: list[list[float | None]] = [[] for _ in pairs]
        for (i, shown), [answer] in zip(games, self._asker.ask(asked, verdict), strict=True):
            letter = answer.value
            results[i].append(None if letter is None else float(shown["AB".index(letter)] == 0))
        return [result or [None] for result in results]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """A rating of each completion, 1 to 10, or -1."""
        return self.rate(prompts, completions, [self.grade] * len(prompts))

    def rate(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], grades: Sequence[Grade]
    ) -> list[list[float]]:
        """`score`, of each prompt by a `grade` of its own."""
        asked = [
            rating_prompt(prompt.prompt, text, grade)
            for prompt, own, grade in zip(prompts, completions, grades, strict=True)
            for text in own
        ]
        answers = self._asker.ask(asked, rating)
        ratings = iter([UNREADABLE if answer.value is None else answer.value for [answer] in answers])
        return [[next(ratings) for _ in own] for own in completions]


def comparison_prompt(messages: Sequence[Message], a: str, b: str) -> Prompt:
    """The question which of two answers is better."""
    return _question(COMPARE, messages, block("answer of assistant A", a), block("answer of assistant B", b))


def rating_prompt(messages: Sequence[Message], answer: str, grade: Grade = "quality") -> Prompt:
    """The question how good an answer is."""
    return _question(RATE[grade], messages, block("answer of the assistant", answer))


def verdict(answer: str) -> str | None:
    """`A` or `B`, whichever stands last in double brackets; None without a verdict."""
    found = _VERDICT.findall(answer)
    return found[-1] if found else None


def rating(answer: str) -> float | None:
    """The last number from 1 to 10 in double brackets; None without one."""
    found = [int(number) for number in _RATING.findall(answer) if 1 <= int(number) <= 10]
    return float(found[-1]) if found else None


def _question(instruction: str, messages: Sequence[Message], *blocks: str) -> Prompt:
    # one turn of the user: there are chat templates that refuse a system turn
    return Prompt((user("\n\n".join([instruction, conversation_block(messages), *blocks])),))
