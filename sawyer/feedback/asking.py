"""Questions to a language model and what is read from its answers: samples, second tries, and an honest count.

Judges, critics, annotators and whatever else asks a model for something that a parser must find again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import uniform
from sawyer.rollout.protocol import Completion, Engine, Sampling

T = TypeVar("T")
Reader = Callable[[Sequence[Prompt], Sequence[Completion]], "list[T | None]"]
"""Reads completions that were given, one for each of the prompts; None where there is nothing to read."""

ENOUGH = 20
"""How many questions must be asked before the share of unread answers can stop everything."""
RETRY_TEMPERATURE = 0.7
"""The least temperature of a second try: a greedy one would be the first again."""
EXAMPLES = 3
SHOWN = 200
"""How many characters of an example an error shows."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """One answer.

    Attributes:
        value: what was read; None if there is no answer, or it cannot be read.
        text: the answer as it came; of several tries the last. Empty if none came.
        error: why there is no answer.
    """

    value: T | None
    text: str
    error: str | None = None


class Asker:
    """Puts questions to an engine and reads the answers.

    Args:
        engine: what answers.
        max_tokens: longest answer.
        temperature: of the answers; 0 is greedy.
        samples: answers to each question.
        retries: how often an answer that cannot be read is asked for again, with another seed and a temperature of at
            least `RETRY_TEMPERATURE`.
        seed: of the engine.
        unread_limit: the largest share of unread answers: above it everything stops. Looked at after the first
            `ENOUGH` questions, then each time that as many more were asked as before. None goes on in any case.
        who: what an error calls the model that answers: "judge", "critic".

    Attributes:
        asked: answers asked for so far, `samples` of each question, second tries not counted.
        answered: those that came.
        unread: those without a value in the end, whether they came or not.

    Raises:
        SawyerError: a setting is out of its range.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_tokens: int = 2048,
        temperature: float = 0.0,
        samples: int = 1,
        retries: int = 0,
        seed: int = 0,
        unread_limit: float | None = None,
        who: str = "judge",
    ) -> None:
        check_asking(temperature=temperature, samples=samples, retries=retries, unread_limit=unread_limit, who=who)
        self.engine, self.samples, self.retries, self.seed, self.who = engine, samples, retries, seed, who
        self.sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        self.unread_limit = unread_limit
        self.asked = self.answered = self.unread = 0
        self._examples: list[str] = []

    def ask(self, prompts: Sequence[Prompt], parse: Callable[[str], T | None]) -> list[list[Answer[T]]]:
        """`samples` answers to each of the prompts, each read by `parse`, which gives None for what it cannot read.

        A question that cannot be answered (too long, refused by a filter) has answers without a value, which say why.

        Raises:
            SawyerError: nothing was answered so far; the model has diverged; something would be answered another time
                (an outage is no answer); or too many answers cannot be read.
        """
        return self.read(prompts, lambda _, completions: [parse(completion.text) for completion in completions])

    def read(self, prompts: Sequence[Prompt], reader: Reader[T]) -> list[list[Answer[T]]]:
        """`ask`, with a reader of whole completions."""
        answers: list[list[Answer[T]]] = []
        for start, end in self._portions(len(prompts)):
            answers += self._tried(prompts[start:end], reader)
            self._refuse_unread()
        return answers

    def _portions(self, count: int) -> Iterator[tuple[int, int]]:
        """Everything at once; with a limit first as much as it needs, then each time as much as was asked before."""
        start = 0
        while start < count:
            some = count
            if self.unread_limit is not None:
                some = max(math.ceil(ENOUGH / self.samples), self.asked // self.samples)
            yield start, min(count, start + some)
            start += some

    def _tried(self, prompts: Sequence[Prompt], reader: Reader[T]) -> list[list[Answer[T]]]:
        self.asked += len(prompts) * self.samples
        answers = self._once(prompts, reader, self.sampling, self.samples, self.seed)
        self.answered += sum(answer.error is None for own in answers for answer in own)
        if not self.answered:
            first = answers[0][0].error
            raise SawyerError(
                f"the {self.who} answered none of {len(prompts) * self.samples} questions; the first: {first}"
            )
        again = self.sampling.model_copy(update={"temperature": max(self.sampling.temperature, RETRY_TEMPERATURE)})
        for attempt in range(self.retries):
            lacking = {i: [k for k, answer in enumerate(own) if _unread(answer)] for i, own in enumerate(answers)}
            seed = int(uniform(self.seed, "another try", attempt) * 2**31)
            for n in sorted({len(samples) for samples in lacking.values()} - {0}):
                some = [i for i, samples in lacking.items() if len(samples) == n]
                new = self._once([prompts[i] for i in some], reader, again, n, seed)
                for i, own in zip(some, new, strict=True):
                    for k, answer in zip(lacking[i], own, strict=True):
                        answers[i][k] = answer if answer.error is None else answers[i][k]
        for answer in (answer for own in answers for answer in own if answer.value is None):
            self.unread += 1
            if len(self._examples) < EXAMPLES:
                self._examples.append(_shown(answer.text) if answer.error is None else f"no answer: {answer.error}")
        return answers

    def _once(
        self, prompts: Sequence[Prompt], reader: Reader[T], sampling: Sampling, n: int, seed: int
    ) -> list[list[Answer[T]]]:
        """`n` answers to each prompt, without second tries."""
        completions = self.engine.generate(prompts, sampling, n, seed=seed, keep_failed=True)
        flat = [completion for own in completions for completion in own]
        if all(completion.error is not None for completion in flat) and not self.answered:
            return [[Answer(None, "", completion.error) for completion in own] for own in completions]
        refuse_faults([completion for completion in flat if completion.error is not None], len(flat), self.who)
        given = [(i, c) for i, own in enumerate(completions) for c in own if c.error is None]
        values = iter(reader([prompts[i] for i, _ in given], [c for _, c in given]) if given else [])
        return [
            [Answer(next(values), c.text) if c.error is None else Answer(None, "", c.error) for c in own]
            for own in completions
        ]

    def _refuse_unread(self) -> None:
        """Raises SawyerError where too many answers cannot be read."""
        if self.unread_limit is None or self.asked < ENOUGH or self.unread <= self.unread_limit * self.asked:
            return
        raise SawyerError(
            f"the {self.who} gave no readable answer to {self.unread} of {self.asked} questions, more than the share "
            f"of {self.unread_limit:g} that is allowed; the first: {'; '.join(self._examples)}; take a model or a "
            "template whose answers end as asked, or allow more"
        )


def check_asking(*, temperature: float, samples: int, retries: int, unread_limit: float | None, who: str) -> None:
    """Refuse settings of an `Asker` that are out of range.

    Raises:
        SawyerError: says which.
    """
    if samples < 1:
        raise SawyerError(f"`samples` of the {who} is {samples}: ask for at least one answer")
    if retries < 0:
        raise SawyerError(f"`retries` of the {who} is {retries}: give 0 or more")
    if not temperature >= 0:
        raise SawyerError(f"`temperature` of the {who} is {temperature}: give 0 or more")
    if samples > 1 and temperature == 0:
        raise SawyerError(
            f"`samples` of the {who} is {samples}, and with `temperature` 0 all of them would be the same answer: set "
            "a temperature above 0, or one sample"
        )
    if unread_limit is not None and not 0 <= unread_limit <= 1:
        raise SawyerError(f"`unread_limit` of the {who} is a share from 0 to 1, not {unread_limit}")


def refuse_faults(failed: Sequence[Completion], asked: int, who: str) -> None:
    """A missing answer can be passed over where the question is to blame, and not where the model is.

    Raises:
        SawyerError: the model has diverged, or something would be answered another time.
    """
    if not failed:
        return
    from sawyer.rollout.search import DIVERGED

    if any(completion.error == DIVERGED for completion in failed):
        raise SawyerError(f"the {who} cannot answer: {DIVERGED}")
    later = [completion.error for completion in failed if completion.again]
    if later:
        raise SawyerError(
            f"the {who} left {len(later)} of {asked} questions for another time; the first: {later[0]}; run the same "
            "again later"
        )


def _unread(answer: Answer[T]) -> bool:
    """Whether another try may help: there is an answer, without a value."""
    return answer.value is None and answer.error is None


def _shown(text: str) -> str:
    """An answer in one line, in quotation marks, control characters escaped."""
    return repr(text[:SHOWN] + "…" if len(text) > SHOWN else text)
