"""Self-Instruct (Wang et al. 2022, arXiv 2212.10560): a model makes its own instructions out of a few of people's.

    kept = the seeds
    repeat until there are enough, or a round brings too little:
        show the model some of what is kept, most by people and a few of its own, and have it go on with the list
        keep of what it writes what passes the filters and overlaps with nothing that is kept
    for each new instruction: have the model write an input, or say that it needs none, and then the output

The filters are those of the authors' code, with Alpaca's longer list of words (Taori et al. 2023), and so is the order:
a proposal is compared with all that was kept before it, of its own round too.

Differences, on purpose: the model is asked in a chat, in which the examples are its own earlier turns; every task gets
its input first and one instance, as in Alpaca, whose authors dropped the step that tells classification tasks apart;
an output may be asked for without examples, which models that were tuned on instructions do not need.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from sawyer.data.records import Message, Prompt, assistant, user
from sawyer.data.rouge import Overlaps, rouge_words
from sawyer.data.tasks import Task
from sawyer.errors import SawyerError
from sawyer.settings import Settings

if TYPE_CHECKING:
    from sawyer.rollout.protocol import Completion

FORBIDDEN = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to", "video", "audio", "music", "flowchart", "diagram",
)  # fmt: skip
"""What a model of text cannot see or do."""
PROGRAM = "Write a program"
NO_INPUT = "<noinput>"
LIST = (
    "Write a numbered list of {count} different tasks that a person may give to a helpful assistant. Mix questions, "
    "writing, explaining, planning, arithmetic, editing and advice. Each task is one line that stands for itself; do "
    "not solve it."
)
MORE = "Go on with the list: {count} more tasks, numbered {first} to {last}, none like those before."
INPUT = (
    "Here is a task for an assistant. If it is about a text, numbers or other data that it does not contain, write "
    f"these, and nothing else. If nothing is missing, write {NO_INPUT}."
)

TOO_SHORT, TOO_LONG = "it has too few words", "it has too many words"
WORD, OPENING = "it has a forbidden word", f"it begins with {PROGRAM!r}"
PUNCTUATION, NOT_ENGLISH = "it begins with punctuation", "it is not in English letters"
TOO_NEAR = "it overlaps with an instruction that is kept"


class InstructionSettings(Settings):
    """How instructions are made, and which are kept."""

    instructions: int = Field(default=100, ge=1)
    """How many new instructions to make."""
    requests: int = Field(default=8, ge=1)
    """How often the model is asked in each round, every time with other examples."""
    examples: int = Field(default=8, ge=1)
    """Instructions shown in each request."""
    own_examples: int = Field(default=2, ge=0)
    """How many of these are new ones, as soon as there are any; the others are seeds."""
    ask_for: int = Field(default=8, ge=1)
    """How many instructions each request asks for."""
    min_yield: float = Field(default=0.05, gt=0, le=1)
    """The share of what a round asked for that must be kept; a round with less is the last."""
    max_overlap: float = Field(default=0.7, gt=0, le=1)
    """An instruction is dropped from this ROUGE-L on with any seed or any instruction that is kept."""
    min_words: int = Field(default=4, ge=1)
    """Shorter instructions are dropped; the authors drop three words and fewer."""
    max_words: int = Field(default=150, ge=1)
    """Longer instructions are dropped."""
    forbidden: tuple[str, ...] = FORBIDDEN
    """Instructions with one of these words, in any case, are dropped."""

    @model_validator(mode="after")
    def _that_can_be_met(self) -> InstructionSettings:
        if self.min_words > self.max_words:
            raise ValueError(f"`min_words` {self.min_words} is more than `max_words` {self.max_words}")
        if self.own_examples >= self.examples:
            raise ValueError("`own_examples` are some of the `examples`: at least one of these must be a seed")
        if not all(word.strip() for word in self.forbidden):
            raise ValueError("an empty word in `forbidden` stands in every instruction; remove it")
        return self


@dataclass(frozen=True)
class Proposal:
    """An instruction that the model wrote.

    Attributes:
        round: in which round, from 1.
        dropped: why it was not kept; None if it was.
        overlap: the highest ROUGE-L with a seed or an instruction kept before; 0 where another filter came first.
        nearest: that seed or instruction.
    """

    instruction: str
    round: int
    dropped: str | None = None
    overlap: float = 0.0
    nearest: str | None = None

    def row(self) -> dict[str, Any]:
        return {**vars(self), "overlap": round(self.overlap, 4)}


Ask = Callable[[int, "list[Prompt]"], "list[Completion]"]
"""Has a round's prompts answered, once each: `ask(round, prompts)`. What cannot be answered has an `error`."""


@dataclass(frozen=True)
class Grown:
    """What came out: every proposal, in order, and why it ended."""

    proposals: list[Proposal]
    rounds: int
    stopped: str | None
    """A sentence, where the wanted number was not reached."""

    @property
    def kept(self) -> list[str]:
        return [proposal.instruction for proposal in self.proposals if proposal.dropped is None]

    @property
    def dropped(self) -> dict[str, int]:
        """How many were dropped, by reason."""
        return dict(Counter(one.dropped for one in self.proposals if one.dropped is not None).most_common())


def grow(seeds: Sequence[str], ask: Ask, settings: InstructionSettings, seed: int = 0) -> Grown:
    """New instructions out of `seeds`. Depends on nothing but its arguments and the answers, so that a killed one that
    is given the same answers again comes to the same end.

    Raises:
        SawyerError: there are no seeds; or nothing that the model wrote in the first round could be kept.
    """
    if not seeds:
        raise SawyerError("Self-Instruct grows instructions out of seed tasks: give at least one")
    pool = Pool(seeds, settings)
    proposals: list[Proposal] = []
    kept: list[str] = []
    number, stopped = 0, None
    while len(kept) < settings.instructions and stopped is None:
        number += 1
        rng = random.Random(f"{seed}/{number}")
        prompts = [
            list_prompt(choose_examples(seeds, kept, settings, rng), settings.ask_for) for _ in range(settings.requests)
        ]
        answers = ask(number, prompts)
        before = len(kept)
        for text in (text for answer in answers for text in read_list(answer.text, whole=answer.finished)):
            if len(kept) == settings.instructions:
                break
            proposal = pool.take(text, number)
            proposals.append(proposal)
            if proposal.dropped is None:
                kept.append(proposal.instruction)
        if not kept:
            raise SawyerError(_nothing(proposals, answers))
        new, wanted = len(kept) - before, settings.requests * settings.ask_for
        if len(kept) < settings.instructions and new < settings.min_yield * wanted:
            stopped = (
                f"round {number} brought {new} of the {wanted} instructions asked for, less than the share of "
                f"{settings.min_yield:g} (`min_yield`), so it was the last: {len(kept)} of {settings.instructions}"
            )
    return Grown(proposals, number, stopped)


def _nothing(proposals: Sequence[Proposal], answers: Sequence[Completion]) -> str:
    """What to say where a first round left nothing."""
    hint = "take a larger model, or other seeds or sampling"
    if proposals:
        first = proposals[0]
        return (
            f"not one of the {len(proposals)} instructions that the model wrote was kept; the first, "
            f"{first.instruction[:100]!r}: {first.dropped}; {hint}"
        )
    missing = next((answer.error for answer in answers if answer.error is not None), None)
    why = f"it says {answers[0].text[:100]!r}" if missing is None else missing
    return f"the model answered {len(answers)} times and wrote no numbered list of instructions; {why}; {hint}"


class Pool:
    """What is kept, seeds first, and which new instructions may join it."""

    def __init__(self, seeds: Sequence[str], settings: InstructionSettings) -> None:
        self._settings = settings
        self._texts = list(seeds)
        self._overlaps = Overlaps(seeds)
        words = "|".join(re.escape(word.strip()) for word in settings.forbidden)
        self._forbidden = re.compile(rf"\b(?:{words})\b", re.IGNORECASE) if words else None

    def take(self, instruction: str, round: int = 1) -> Proposal:
        """Keep the instruction, or say why not."""
        reason = self._problem(instruction)
        if reason is not None:
            return Proposal(instruction, round, reason)
        overlap, which = self._overlaps.nearest(instruction)
        nearest = None if which is None else self._texts[which]
        if overlap >= self._settings.max_overlap:
            return Proposal(instruction, round, TOO_NEAR, overlap, nearest)
        self._overlaps.add(instruction)
        self._texts.append(instruction)
        return Proposal(instruction, round, None, overlap, nearest)

    def _problem(self, instruction: str) -> str | None:
        """What the filters that look at nothing else say."""
        count = len(instruction.split())
        if count < self._settings.min_words:
            return TOO_SHORT
        if count > self._settings.max_words:
            return TOO_LONG
        if self._forbidden is not None and self._forbidden.search(instruction):
            return WORD
        if instruction.startswith(PROGRAM):
            return OPENING
        if instruction[0] in string.punctuation:
            return PUNCTUATION
        if not instruction[0].isascii() or not rouge_words(instruction):
            return NOT_ENGLISH
        return None


def choose_examples(
    seeds: Sequence[str], kept: Sequence[str], settings: InstructionSettings, rng: random.Random
) -> list[str]:
    """The instructions that a request shows: `own_examples` new ones, seeds besides, in any order. Where there are too
    few of one kind, more of the other."""
    own = min(len(kept), max(settings.own_examples, settings.examples - len(seeds)))
    shown = rng.sample(list(kept), own) + rng.sample(list(seeds), min(len(seeds), settings.examples - own))
    rng.shuffle(shown)
    return shown


def list_prompt(shown: Sequence[str], count: int) -> Prompt:
    """The request for `count` more instructions: those shown are the assistant's own list so far."""
    listed = "\n".join(f"{number}. {one}" for number, one in enumerate(shown, start=1))
    first = len(shown) + 1
    return Prompt(
        (
            user(LIST.format(count=len(shown))),
            assistant(listed),
            user(MORE.format(count=count, first=first, last=len(shown) + count)),
        )
    )


_ITEM = re.compile(r"^[ \t]*[*_#]{0,3}[ \t]*(?:task|instruction)?[ \t]*\d{1,4}[ \t]*[.):][*_]{0,3}[ \t]+", re.I | re.M)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LABEL = re.compile(r"(?:task|instruction)[ \t]*:[ \t]*", re.IGNORECASE)
_QUOTES = ("**", "__", '"', "*", "_", "“”", "`")


def read_list(text: str, *, whole: bool = True) -> list[str]:
    """The items of a numbered list in a model's answer, each in one line, without the marks and quotes around it.

    An item ends with the next number or with a blank line; what stands before the first number is left out.

    Args:
        whole: the answer ended by itself; of another the last item was probably cut, and is left out.
    """
    marks = list(_ITEM.finditer(text))
    if not marks:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    items = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    if not whole and _BLANK_LINE.search(items[-1]) is None:
        items.pop()
    return [line for item in items if (line := _one_line(_BLANK_LINE.split(item, maxsplit=1)[0]))]


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    text = _LABEL.sub("", text, count=1) if _LABEL.match(text) else text
    for quotes in _QUOTES:
        left, right = (quotes, quotes) if len(set(quotes)) == 1 else (quotes[0], quotes[1])
        inside = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and inside and left not in inside:
            text = inside.strip()
    return text


def input_prompt(instruction: str, shown: Sequence[Task]) -> Prompt:
    """The request for an instruction's input; each task shown is a turn before it."""
    turns: list[Message] = []
    for task in shown:
        turns += [user(f"{INPUT}\n\nTask: {task.instruction}"), assistant(task.input or NO_INPUT)]
    return Prompt((*turns, user(f"{INPUT}\n\nTask: {instruction}")))


_NO_INPUT = re.compile(r"<? *no[ _-]?input *>?\.?|none\.?|n/?a\.?", re.IGNORECASE)


def read_input(text: str) -> str:
    """The input in a model's answer; empty where it says that none is needed."""
    text = text.strip()
    text = text[len("input:") :].strip() if text.lower().startswith("input:") else text
    return "" if NO_INPUT in text.lower() or _NO_INPUT.fullmatch(text) else text


def output_prompt(task: Task, shown: Sequence[Task] = ()) -> Prompt:
    """The task as a user's turn; each task shown is a turn and its answer before it."""
    turns = [turn for one in shown for turn in (user(one.question), assistant(one.output))]
    return Prompt((*turns, user(task.question)))


def instance_problem(task: Task, *, whole: bool = True) -> str | None:
    """Why a finished task is not kept, by the rules of the authors' code and Alpaca's; None if it is.

    Args:
        whole: the output ended by itself.
    """
    output = task.output.strip()
    if not output:
        return "the output is empty"
    if not whole:
        return "the output was cut at `max_tokens`"
    if output in (task.input.strip(), task.instruction.strip(), task.question.strip()):
        return "the output repeats the task"
    if output.endswith(":") or task.input.rstrip().endswith(":"):
        return "the input or the output ends with a colon"
    return None
