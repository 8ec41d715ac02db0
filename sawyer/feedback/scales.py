"""Questions how good one answer is: by an aspect of it, or by adding up points. One question to each, the verdict last.

- `ASPECTS`: the four of UltraFeedback (Cui et al. 2023, arXiv 2310.01377), each from 1 to 5.
- `ADDITIVE`: five points that add up, as for self-rewarding models (Yuan et al. 2024, arXiv 2401.10020).

Both papers' prompts are longer, and in other words. A verdict is the last `Score: n` that ends a line of the judge's
reply. What an answer says cannot be taken for one: a judge is shown `Score -` where the answer says `Score:`, so that
not even a copy of it is a verdict, and an answer cannot close the block that it is shown in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sawyer.data.records import Message, Prompt, user

VERDICT = "Score: "
"""What stands before the number."""
_VERDICT = re.compile(r"\bscore\W{0,4}?:[\s*_]*(-?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*\d+)?[\s.*_]*$", re.I | re.M)
_LIKE_A_VERDICT = re.compile(r"\bscore\W{1,5}", re.I)
_LIKE_A_BORDER = re.compile(r"\[(?=\s*(?:begin|end) of\b)", re.I)


@dataclass(frozen=True)
class Scale:
    """How one number is asked for.

    Attributes:
        name: what it is called in tables.
        question: what the judge is told to look at.
        low, high: the lowest and the highest number.
    """

    name: str
    question: str
    low: int
    high: int

    def ask(self, messages: Sequence[Message], answer: str, explain: bool = True) -> Prompt:
        """The question about one answer to a conversation, as one turn of the user: some templates have no system.

        Args:
            explain: whether the judge is to say why before its verdict, or to give the verdict alone.
        """
        turns = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        number = f"`{VERDICT}` and a whole number from {self.low} to {self.high}"
        ending = f"Now grade the answer. Reply with one line that says {number}, and with nothing else."
        if explain:
            ending = (
                "Now grade the answer. First explain your judgement in a few sentences. Then end with a line that says "
                f"{number}, and with nothing after it."
            )
        return Prompt(
            (user("\n\n".join([self.question, _block("conversation", turns), _block("answer", answer), ending])),)
        )

    @property
    def numbers(self) -> list[str]:
        """All that a verdict can be, as text."""
        return [str(number) for number in range(self.low, self.high + 1)]

    def read(self, reply: str) -> float | None:
        """The score at the end of a line, the last one; None where there is none or it is out of range."""
        found = _VERDICT.findall(reply)
        score = float(found[-1]) if found else None
        return score if score is not None and self.low <= score <= self.high else None


def defused(text: str) -> str:
    """A text that is shown to a judge, without anything that could be read as its verdict or as the end of a block."""
    return _LIKE_A_BORDER.sub("(", _LIKE_A_VERDICT.sub(lambda found: found[0].replace(":", " -"), text))


def _block(title: str, text: str) -> str:
    return f"[begin of {title}]\n{defused(text)}\n[end of {title}]"


def _aspect(name: str, looks_at: str, worst: str, best: str) -> Scale:
    question = (
        f"You grade one aspect of the answer that an AI assistant gave to a user: {name.replace('_', ' ')}. {looks_at} "
        f"Grade nothing else: neither length nor style, nor what belongs to another aspect. 1 means that {worst}, 3 "
        f"that it is mixed, 5 that {best}."
    )
    return Scale(name, question, 1, 5)


ASPECTS: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        _aspect(
            "helpfulness",
            "Does the answer give the user what they need, right, complete and clear enough to be used?",
            "the user can do nothing with it",
            "the user needs nothing more",
        ),
        _aspect(
            "honesty",
            "Does the answer sound as sure as it has reason to be, say what it does not know, and claim nothing about "
            "itself or its sources that is not so?",
            "it is confident about what it cannot know or has made up",
            "its confidence fits what it says throughout",
        ),
        _aspect(
            "truthfulness",
            "Is what the answer says true, without facts that are made up, and without contradicting itself or what "
            "the user has said?",
            "most of it is false or made up",
            "all of it is true",
        ),
        _aspect(
            "instruction_following",
            "Does the answer do what the user asked for, in purpose and in every demand on form, such as length, "
            "language and layout?",
            "it ignores what was asked",
            "it meets every demand",
        ),
    )
}
"""Aspect -> its question, in the order in which they are asked."""

ADDITIVE = Scale(
    "additive",
    "You grade the answer that an AI assistant gave to a user by adding up points. Start at 0, and add one point for "
    "each of these that holds:\n"
    "- it has to do with what the user asked and says something useful about it, even if it is incomplete or partly "
    "beside the point;\n"
    "- it deals with a good part of what was asked, even if not with all of it;\n"
    "- it answers what matters in the question in a way that the user can use, whoever may have written it;\n"
    "- it is written as by an assistant for this user: direct, complete, well organised and helpful, with little left "
    "to improve;\n"
    "- it shows an expert's insight, is made for this very question, and has nothing superfluous.",
    0,
    5,
)
"""The five points of self-rewarding language models, from 0 to 5."""
