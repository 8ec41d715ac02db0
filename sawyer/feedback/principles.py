"""Which of two answers follows a principle better, as a language model says: the labels of RL from AI feedback (Bai et
al. 2022, "Constitutional AI", section 4).

P(the first is better) is read off the probabilities that the model gives to the letters A and B, as in the paper, where
they can be had (a model that is here, an endpoint that tells alternatives); or off what it says, where not, or where it
is to think first. Asked in both orders the two are averaged, which takes out a liking for one place, and how strong
that liking is can be said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sawyer.data.records import Prompt, user
from sawyer.feedback.asking import Asker
from sawyer.feedback.harm import block
from sawyer.feedback.judge_verdicts import Verdict, mean
from sawyer.feedback.judges import orders

if TYPE_CHECKING:
    from sawyer.rollout.torch_engine import TorchEngine

LETTERS = ("A", "B")
_VERDICT = re.compile(r"\[\[\s*([AB])\s*\]\][\s.*_]*\Z")
_ALONE = re.compile(r"\W*(?:answer\s+)?([AB])\W*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Principle:
    """What answers should follow."""

    text: str
    weight: float = 1.0
    """How often it is drawn, beside the others."""
    name: str = ""
    critique: str = ""
    """How a critique by it is asked for; in general words where it is empty."""
    revision: str = ""
    """How a revision after it is asked for, likewise."""


@dataclass(frozen=True)
class Preference:
    """What was said of one pair.

    Attributes:
        p: the probability that its first answer is better; None where nothing could be read.
        first_shown: the mean probability of the answer that was shown first, whichever it was; None likewise.
    """

    p: float | None
    first_shown: float | None


Reader = Callable[[Sequence[Prompt]], "list[float | None]"]
"""For each question P(A), the answer that is shown first."""


def preferences(
    reader: Reader,
    prompts: Sequence[Prompt],
    pairs: Sequence[tuple[str, str]],
    principles: Sequence[Principle],
    *,
    both_orders: bool = True,
    step_by_step: bool = False,
    seed: int = 0,
) -> list[Preference]:
    """What the reader's model says of each pair by its principle.

    Asked in one order, which answer comes first is a coin of the seed, the prompt and the two texts, so that a swapped
    pair is the same question.
    """
    games = [
        (i, shown)
        for i, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True))
        for shown in orders(seed, prompt, pair, both=both_orders)
    ]
    questions = [
        preference_prompt(prompts[i], pairs[i][a], pairs[i][b], principles[i], step_by_step=step_by_step)
        for i, (a, b) in games
    ]
    read: list[list[tuple[float, float]]] = [[] for _ in pairs]
    for (i, shown), p_a in zip(games, reader(questions), strict=True):
        if p_a is not None:
            read[i].append((p_a if shown[0] == 0 else 1 - p_a, p_a))
    return [
        Preference(*(sum(column) / len(own) for column in zip(*own, strict=True))) if own else Preference(None, None)
        for own in read
    ]


def said(asker: Asker) -> Reader:
    """P(A) as the share of a model's samples that say A."""

    def read(questions: Sequence[Prompt]) -> list[float | None]:
        found: list[float | None] = []
        for samples in asker.ask(questions, letter):
            letters = [sample.value.symbol for sample in samples if sample.value is not None]
            found.append(letters.count("A") / len(letters) if letters else None)
        return found

    return read


def among_alternatives(asker: Asker) -> Reader:
    """P(A) by the probabilities that an endpoint gives to the alternatives of the letter that its model writes."""
    from sawyer.feedback.token_verdicts import token_reader

    def read(questions: Sequence[Prompt]) -> list[float | None]:
        reader = token_reader(asker.engine, letter, LETTERS, "")
        return [mean([a.value["A"] for a in own if a.value is not None]) for own in asker.read(questions, reader)]

    return read


def by_letters(engine: TorchEngine) -> Reader:
    """P(A) as the model's probability of the letter A where its reply may be nothing but A or B."""
    from sawyer.rollout.choices import choice_probabilities

    def read(questions: Sequence[Prompt]) -> list[float | None]:
        found = choice_probabilities(engine, questions, [""] * len(questions), LETTERS)
        return [None if chances is None else chances[0] for chances in found]

    return read


def preference_prompt(prompt: Prompt, a: str, b: str, principle: Principle, *, step_by_step: bool = False) -> Prompt:
    """The question which of two answers follows a principle better. The reply is a letter, or ends with `[[A]]`."""
    turns = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt.prompt)
    how = (
        "Think step by step, in a few sentences. Then end with [[A]] if answer A follows it better, or with [[B]] if "
        "answer B does, and nothing after it."
        if step_by_step
        else "Reply with the letter alone, A or B."
    )
    return Prompt(
        (
            user(
                "\n\n".join(
                    [
                        "An AI assistant could answer a user in two ways. Which answer follows this principle better? "
                        f"{principle.text}",
                        block("conversation", turns),
                        block("answer A", a),
                        block("answer B", b),
                        how,
                    ]
                )
            ),
        )
    )


def letter(text: str) -> Verdict | None:
    """`A` or `B`: in double brackets at the end, or the whole reply; None without one."""
    found = _VERDICT.search(text) or _ALONE.match(text)
    return None if found is None else Verdict(found[1].upper(), found.start(1), found.end(1))
