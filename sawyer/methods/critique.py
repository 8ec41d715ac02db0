"""Critique and revision by principles (Bai et al. 2022, "Constitutional AI"): what a critic and a reviser are asked,
and which principle when. No models.

A chain begins with an answer; each round draws a principle, has the answer criticised by it, and has it rewritten after
the critique. The questions are turns of one conversation, so that any chat model can be critic and reviser; examples
are earlier turns of it. A model without a chat template reads them as Human and Assistant, as in the paper.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sawyer.data.records import Message, Prompt, assistant, user
from sawyer.feedback.principles import Principle
from sawyer.methods.draws import draw

_END = re.compile(r"[.!?][\"”')]*(?=\s|$)")


@dataclass(frozen=True)
class Example:
    """A critique and a revision to learn from."""

    prompt: str
    response: str
    principle: str
    critique: str
    revision: str


@dataclass(frozen=True)
class Constitution:
    """Principles and examples."""

    principles: tuple[Principle, ...]
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Round:
    """One round of a chain: what it went by, what was found wrong, and what became of the answer."""

    principle: Principle
    critique: str
    revision: str


def principles_of(constitution: Constitution, count: int, *what: object) -> list[Principle]:
    """`count` principles in a random order in proportion to their weights, none twice before all were drawn.

    `what` says for whom they are drawn (seed, prompt, sample): the same, the same principles.
    """
    rng = random.Random("/".join(map(str, what)))
    weights = [math.log(principle.weight) for principle in constitution.principles]
    order: list[int] = []
    while len(order) < count:
        order += draw(weights, len(weights), rng)
    return [constitution.principles[i] for i in order[:count]]


def critique_prompt(
    prompt: Prompt, response: str, principle: Principle, examples: Sequence[Example] = (), *, step_by_step: bool = False
) -> Prompt:
    """The question what is wrong with an answer."""
    turns = _before(prompt, examples, critiques=True, step_by_step=step_by_step)
    return Prompt((*turns, assistant(response), user(critique_request(principle, step_by_step))))


def revision_prompt(
    prompt: Prompt,
    response: str,
    principle: Principle,
    critique: str | None,
    examples: Sequence[Example] = (),
    *,
    step_by_step: bool = False,
) -> Prompt:
    """The question for a better answer, after a critique; without one, after the principle alone."""
    turns = [*_before(prompt, examples, critiques=critique is not None, step_by_step=step_by_step), assistant(response)]
    if critique is None:
        return Prompt((*turns, user(revision_request(principle, after_critique=False))))
    asked = user(critique_request(principle, step_by_step))
    return Prompt((*turns, asked, assistant(critique), user(revision_request(principle))))


def critique_request(principle: Principle, step_by_step: bool = False) -> str:
    """How a critique is asked for."""
    asked = principle.critique or f"Look at your last answer in the light of this principle: {principle.text}"
    if step_by_step:
        return (
            f"{asked} Think step by step: what did I ask for, what does your answer do, and where does it go against "
            "the principle?"
        )
    return asked if principle.critique else f"{asked} Say in one or two sentences where your answer goes against it."


def revision_request(principle: Principle, after_critique: bool = True) -> str:
    """How a revision is asked for; the principle is named where no critique has."""
    why = "so that it follows the principle." if after_critique else f"so that it follows this: {principle.text}"
    asked = principle.revision or f"Now rewrite your answer to my last question {why}"
    return f"{asked} Answer with the new text alone."


def cleaned(text: str, *, cut: bool = False) -> str:
    """A revision without what models put around it: a line that announces it, a label, quotes around the whole.

    Of a text that was cut off for its length the last sentence is taken away where it has no end: what is imitated
    must not end in the middle.
    """
    said = text.strip()
    if cut:
        ends = list(_END.finditer(said))
        said = said[: ends[-1].end()].strip() if ends else ""
    first, _, rest = said.partition("\n")
    if rest.strip() and first.rstrip().endswith(":") and re.search(r"\b(?:revis|rewrit|version|answer)", first, re.I):
        said = rest.strip()
    said = re.sub(r"^(?:revised |rewritten |new )?(?:answer|response|revision|version)\s*:\s*", "", said, flags=re.I)
    if len(said) > 1 and said[0] + said[-1] in ('""', "“”") and said[0] not in said[1:-1]:
        said = said[1:-1].strip()
    return said


def _before(prompt: Prompt, examples: Sequence[Example], *, critiques: bool, step_by_step: bool) -> list[Message]:
    """The turns before the answer: a system turn, the examples, the prompt."""
    system = [turn for turn in prompt.prompt[:1] if turn["role"] == "system"]
    turns: list[Message] = [*system]
    for example in examples:
        principle = Principle(example.principle)
        turns += [user(example.prompt), assistant(example.response)]
        if critiques:
            turns += [user(critique_request(principle, step_by_step)), assistant(example.critique)]
        turns += [user(revision_request(principle, after_critique=critiques)), assistant(example.revision)]
    return [*turns, *prompt.prompt[len(system) :]]
