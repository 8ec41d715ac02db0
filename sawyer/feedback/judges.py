"""Language models as judges, in every form of question: which of two, by how much, how good, by which criteria, which
of several.

Each is a `Feedback` with a `prefer` of its own. What has no verdict is None inside and stays out of means; outside it
is a draw, or a rating of -1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sawyer.data.records import Prompt
from sawyer.feedback import judge_verdicts as verdicts
from sawyer.feedback.asking import Answer, Asker
from sawyer.feedback.judge_settings import JudgeForm
from sawyer.feedback.judge_template import block
from sawyer.feedback.protocol import uniform, win_rates
from sawyer.feedback.token_verdicts import check_tells_tokens, forced, token_reader
from sawyer.rollout.protocol import Engine

UNREADABLE = -1.0
"""The rating of an answer that a judge did not rate."""


@dataclass(frozen=True)
class Opinion:
    """What a judge said to one question.

    Attributes:
        value: the mean over the answers that hold a verdict; None without any.
        answers: all of them.
    """

    value: float | None
    answers: tuple[Answer[Any], ...]


class FormJudge(Protocol):
    """What all forms have."""

    name: str
    engine: Engine
    asker: Asker
    sees_order: bool
    """Whether the order in which two answers are given makes another question."""

    @property
    def unread(self) -> int:
        """Answers so far without a verdict."""
        ...

    def opinions(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """P(the first of a pair is better), asked once, the first shown first."""
        ...

    def verdicts(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[list[float | None]]:
        """For each pair its games, one or two: P(the first is better), None without a verdict."""
        ...

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The mean over the games; 0.5 of one without a verdict."""
        ...

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`."""
        ...


def make_judge(engine: Engine, settings: JudgeForm, seed: int = 0) -> FormJudge:
    """The judge that the settings describe.

    Raises:
        SawyerError: verdicts are to be read from tokens, or forced, and the engine cannot do that.
    """
    kinds: dict[str, Callable[[Engine, JudgeForm, int], FormJudge]] = {
        "pairwise": PairJudge,
        "scale": PairJudge,
        "pointwise": RatingJudge,
        "rubric": RatingJudge,
        "best_of": ChoiceJudge,
    }
    return kinds[settings.form](engine, settings, seed)


class _Asking:
    """A judge's engine, question and counts."""

    def __init__(self, engine: Engine, settings: JudgeForm, seed: int = 0) -> None:
        self.name = f"judge ({settings.form})"
        self.engine, self.settings, self.seed = engine, settings, seed
        self.template = settings.question()
        if settings.read == "tokens":
            check_tells_tokens(engine)  # before anything is asked
        self.asker = Asker(
            forced(engine, *verdicts.FORCED[settings.form]) if settings.read == "forced" else engine,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            samples=settings.samples,
            retries=settings.tries - 1,
            seed=seed,
            unread_limit=settings.unread_limit,
        )

    @property
    def answered(self) -> int:
        return self.asker.answered

    @property
    def unread(self) -> int:
        return self.asker.unread

    def ask(
        self,
        questions: Sequence[Prompt],
        find: verdicts.Find,
        value: Callable[[str], float],
        options: Sequence[str],
        ending: str = "]]",
    ) -> list[Opinion]:
        """The mean `value` of the verdicts that `find` sees, or of `options` by the probabilities of their tokens."""
        if self.settings.read == "text":

            def parse(text: str) -> float | None:
                verdict = find(text)
                return None if verdict is None else value(verdict.symbol)

            return _opinions(self.asker.ask(questions, parse))
        reader = token_reader(self.asker.engine, find, options, ending)

        def expected(prompts: Any, completions: Any) -> list[float | None]:
            chances = reader(prompts, completions)
            return [None if own is None else sum(p * value(option) for option, p in own.items()) for own in chances]

        return _opinions(self.asker.read(questions, expected))


class _OrderedJudge(_Asking, ABC):
    """A judge for whom (a, b) and (b, a) are two questions."""

    sees_order = True

    @abstractmethod
    def opinions(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """P(the first of a pair is better), asked once, the first shown first."""

    def verdicts(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[list[float | None]]:
        """For each pair its games, one or two: P(the first is better), None without a verdict.

        Which of a pair is shown first does not depend on how it is given. Equal texts are not compared.
        """
        games = [
            (i, shown)
            for i, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True))
            for shown in orders(self.seed, prompt, pair, both=self.settings.both_orders)
        ]
        asked = [(pairs[i][first], pairs[i][second]) for i, (first, second) in games]
        results: list[list[float | None]] = [[] for _ in pairs]
        for (i, shown), opinion in zip(games, self.opinions([prompts[i] for i, _ in games], asked), strict=True):
            p = opinion.value
            results[i].append(p if p is None or shown[0] == 0 else 1 - p)
        return [result or [None] for result in results]

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(the first of a pair is better), the mean over its games, a draw for one without a verdict."""
        return [drawn(games) for games in self.verdicts(prompts, pairs)]


class PairJudge(_OrderedJudge):
    """Forms `pairwise` and `scale`: two answers, shown as A and B."""

    def opinions(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """P(the first of a pair is better), asked once, the first shown as A."""
        titles = ("answer of assistant A", "answer of assistant B")
        questions = [
            self.template.question(prompt.prompt, answer_a=block(titles[0], a), answer_b=block(titles[1], b))
            for prompt, (a, b) in zip(prompts, pairs, strict=True)
        ]
        if self.settings.form == "scale":
            value = lambda score: verdicts.first_better(float(score))
            return self.ask(questions, verdicts.scale, value, verdicts.SCALE, ending="")
        return self.ask(questions, verdicts.letter, verdicts.LETTERS.__getitem__, list(verdicts.LETTERS))

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The mean probability that a completion beats each of its siblings; 0.5 for one without siblings."""
        return win_rates(self, prompts, completions)


class RatingJudge(_Asking):
    """Forms `pointwise` and `rubric`: each answer by itself, from 1 to 10."""

    sees_order = False

    def __init__(self, engine: Engine, settings: JudgeForm, seed: int = 0) -> None:
        super().__init__(engine, settings, seed)
        self.rubric = settings.criteria() if settings.form == "rubric" else None

    def ratings(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[Opinion]]:
        """A rating of each completion; one that stands several times under a prompt, or in several pairs, is asked for
        once."""
        blocks = {} if self.rubric is None else {"criteria": self.rubric.listed()}
        title = "answer of the assistant"
        asked = [
            [self.template.question(prompt.prompt, answer=block(title, text), **blocks) for text in own]
            for prompt, own in zip(prompts, completions, strict=True)
        ]
        by_text = {question.text: question for own in asked for question in own}
        questions = list(by_text.values())
        if self.rubric is None:
            found = self.ask(questions, verdicts.rating, float, verdicts.RATINGS)
        else:
            grade = self.rubric.grade
            found = _opinions(self.asker.ask(questions, lambda text: grade(verdicts.grades(text))))
        ratings = dict(zip(by_text, found, strict=True))
        return [[ratings[question.text] for question in own] for own in asked]

    def opinions(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """1 where the first of a pair has the higher rating, 0 where the second has, 0.5 where they are equal."""
        return [Opinion(_higher(a.value, b.value), a.answers + b.answers) for a, b in self.ratings(prompts, pairs)]

    def verdicts(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[list[float | None]]:
        """One game a pair."""
        return [[opinion.value] for opinion in self.opinions(prompts, pairs)]

    def prefer(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """1, 0, or 0.5 where the ratings are equal or one is missing: a difference of ratings is no logit."""
        return [drawn(games) for games in self.verdicts(prompts, pairs)]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The rating of each completion, 1 to 10, or -1."""
        rated = self.ratings(prompts, completions)
        return [[UNREADABLE if opinion.value is None else opinion.value for opinion in own] for own in rated]


class ChoiceJudge(_OrderedJudge):
    """Form `best_of`: all answers at once, of which one is picked."""

    def shares(self, prompts: Sequence[Prompt], shown: Sequence[Sequence[str]]) -> list[Opinion]:
        """Which share of the votes each of the answers gets, in the order in which they are shown.

        The `value` of an answer of the judge is the list of shares; an opinion's value is the first one's share.
        """
        found: list[Opinion] = [Opinion(None, ())] * len(shown)
        for count in sorted({len(own) for own in shown}):
            where = [i for i, own in enumerate(shown) if len(own) == count]
            options = [str(number + 1) for number in range(count)]
            questions = [
                self.template.question(
                    prompts[i].prompt,
                    answers="\n\n".join(
                        block(f"answer {number}", text) for number, text in zip(options, shown[i], strict=True)
                    ),
                    count=str(count),
                )
                for i in where
            ]
            for i, answers in zip(where, self._votes(questions, options), strict=True):
                read = [answer.value[0] for answer in answers if answer.value is not None]
                found[i] = Opinion(verdicts.mean(read), tuple(answers))
        return found

    def _votes(self, questions: Sequence[Prompt], options: Sequence[str]) -> list[list[Answer[list[float]]]]:
        find = verdicts.choice(len(options))
        if self.settings.read == "tokens":
            reader = token_reader(self.asker.engine, find, options, "]]")

            def by_tokens(prompts: Any, completions: Any) -> list[list[float] | None]:
                return [None if own is None else list(own.values()) for own in reader(prompts, completions)]

            return self.asker.read(questions, by_tokens)

        def by_text(text: str) -> list[float] | None:
            verdict = find(text)
            return None if verdict is None else [float(int(option) == int(verdict.symbol)) for option in options]

        return self.asker.ask(questions, by_text)

    def opinions(self, prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """P(the first of a pair is picked), asked once, the first shown first."""
        return self.shares(prompts, pairs)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The share of the votes for each completion, over samples and orders; equal shares without a verdict.

        Equal texts are shown once, and each has the share of all.
        """
        texts = [list(dict.fromkeys(own)) for own in completions]
        games = [
            (i, order)
            for i, (prompt, own) in enumerate(zip(prompts, texts, strict=True))
            if len(own) > 1
            for order in self._permutations(prompt, own)
        ]
        found = self.shares([prompts[i] for i, _ in games], [order for _, order in games])
        votes: list[list[dict[str, float]]] = [[] for _ in texts]
        for (i, order), opinion in zip(games, found, strict=True):
            for answer in opinion.answers:
                if answer.value is not None:
                    votes[i].append(dict(zip(order, answer.value, strict=True)))
        return [
            [verdicts.mean([vote[text] for vote in own]) or (0.0 if own else 1 / len(of)) for text in completion]
            for own, of, completion in zip(votes, texts, completions, strict=True)
        ]

    def _permutations(self, prompt: Prompt, texts: list[str]) -> list[list[str]]:
        """The orders in which answers are shown: one drawn for them, and its reverse."""
        order = sorted(texts, key=lambda text: uniform(self.seed, list(prompt.prompt), text))
        return [order, order[::-1]] if self.settings.both_orders else [order]


def orders(seed: int, prompt: Prompt, pair: tuple[str, str], *, both: bool) -> list[tuple[int, int]]:
    """Which of a pair are shown first and second, in each game: a coin's choice, or both. The same for the swapped
    pair; none for equal texts."""
    if pair[0] == pair[1]:
        return []
    forth, back = ((0, 1), (1, 0)) if pair[0] < pair[1] else ((1, 0), (0, 1))
    if both:
        return [forth, back]
    return [forth if uniform(seed, list(prompt.prompt), sorted(pair)) < 0.5 else back]


def drawn(games: Sequence[float | None]) -> float:
    """The mean of games, of which those without a verdict are draws."""
    return sum(0.5 if game is None else game for game in games) / len(games)


def _opinions(answers: Sequence[Sequence[Answer[float]]]) -> list[Opinion]:
    return [
        Opinion(verdicts.mean([answer.value for answer in own if answer.value is not None]), tuple(own))
        for own in answers
    ]


def _higher(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 1.0 if a > b else 0.0 if a < b else 0.5
