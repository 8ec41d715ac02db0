"""From the answers to one prompt to comparisons: all pairs, the best and a random other, or the whole ranking."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from sawyer.data.cleaning import Sieve
from sawyer.data.public.base import Pairing, ScoredSettings
from sawyer.data.public.fields import name, text
from sawyer.data.records import Comparison, Message
from sawyer.errors import SawyerError

SAME_TEXT = "two completions are the same text"
ALONE = "there are fewer than two completions to compare"
TIES, HOLES = "the ranking has ties", "the ranking has holes"
OF_COMPLETIONS = ("labelled_by", "models", "details", "delta", "label", "worker", "confidence", "preference")
"""What of `info` is about the completions of a comparison, and not about its prompt."""


@dataclass(frozen=True)
class Answer:
    """One completion of a prompt."""

    text: str
    score: float | None = None
    """Higher is better. None where the set only ranks."""
    model: str | None = None
    """Who wrote it."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More that the set says of it, such as scores for single aspects."""


def comparison(
    prompt: Sequence[Message], answers: Sequence[Answer], source: str, labelled_by: str, **more: Any
) -> Comparison:
    """The record of answers given best first; `info` says who wrote each of them, and who labelled.

    Scores go into the record where all answers have one; `details` and `more` into `info`.
    """
    info: dict[str, Any] = {"source": source, "labelled_by": labelled_by}
    if any(answer.model for answer in answers):
        info["models"] = [answer.model for answer in answers]
    if any(answer.details for answer in answers):
        info["details"] = [dict(answer.details) for answer in answers]
    info |= {name: value for name, value in more.items() if value is not None}
    scored = all(answer.score is not None for answer in answers)
    scores = tuple(float(answer.score) for answer in answers if answer.score is not None) if scored else None
    return Comparison(tuple(prompt), tuple(answer.text for answer in answers), scores, info)


def rated_answers(
    given: Sequence[Mapping[str, Any]],
    rate: Callable[[Mapping[str, Any]], tuple[float, Mapping[str, Any]]],
    model_key: str,
    sieve: Sieve,
    where: str,
) -> list[Answer]:
    """The completions of a row that have a text (`response`) and a score; the others are counted.

    Args:
        rate: the score of a completion and details; raises `SawyerError` where it has none.
        model_key: the field that names who wrote it.
    """
    answers: list[Answer] = []
    for item in given:
        try:
            body = text(item, "response")
        except SawyerError as error:
            sieve.bad(f"a completion: {error}", where)
            continue
        try:
            score, details = rate(item)
        except SawyerError:
            sieve.leave_out("a completion that is not rated", where)
            continue
        answers.append(Answer(body, score, name(item, model_key), details))
    if len(given) < 2:
        sieve.bad(ALONE, where)
    elif len(answers) < 2:
        sieve.leave_out("a prompt with fewer than two rated completions", where)
    return answers


def scored_comparisons(
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    settings: ScoredSettings,
    sieve: Sieve,
    where: str,
    labelled_by: str,
    **more: Any,
) -> Iterator[Comparison]:
    """What a prompt with scored answers gives; of fewer than two, nothing.

    Answers that are equal in text are bad; equal scores are left out.
    """
    if len(answers) < 2:
        return
    if settings.pairing == "ranking":
        ranked = _strictly_ranked(answers, settings.min_margin, sieve, where)
        if len(ranked) > 1:
            yield comparison(prompt, ranked, settings.source, labelled_by, **more)
        return
    pairs = list(combinations(answers, 2))
    if settings.pairing == "best-random":
        pairs = [_best_and_other(prompt, answers, settings.seed)]
    for one, other in pairs:
        better, worse = (one, other) if _score(one) >= _score(other) else (other, one)
        margin = _score(better) - _score(worse)
        if one.text == other.text:
            sieve.bad(SAME_TEXT, where)
        elif margin <= settings.min_margin:
            sieve.leave_out(too_close(settings.min_margin), where)
        else:
            yield comparison(prompt, (better, worse), settings.source, labelled_by, **more)


def ranked_comparisons(
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    pairing: Pairing,
    seed: int,
    source: str,
    labelled_by: str,
    **more: Any,
) -> Iterator[Comparison]:
    """What a prompt with a ranking of answers, best first, gives.

    Raises:
        SawyerError: two answers are the same text, or there is one only; the message is the reason.
    """
    if len(answers) < 2:
        raise SawyerError(ALONE)
    if len({answer.text for answer in answers}) < len(answers):
        raise SawyerError(SAME_TEXT)
    if pairing == "ranking":
        chosen: list[Sequence[Answer]] = [answers]
    elif pairing == "best-random":
        chosen = [(answers[0], _rng(prompt, seed).choice(list(answers[1:])))]
    else:
        chosen = list(combinations(answers, 2))
    for some in chosen:
        yield comparison(prompt, some, source, labelled_by, **more)


def check_ranks(ranks: Sequence[float], first: int) -> None:
    """Ranks are `first`, `first` + 1, ... in some order.

    Raises:
        SawyerError: some are equal, or one is missing.
    """
    if len(set(ranks)) < len(ranks):
        raise SawyerError(TIES)
    if sorted(ranks) != list(range(first, first + len(ranks))):
        raise SawyerError(HOLES)


def _strictly_ranked(answers: Sequence[Answer], min_margin: float, sieve: Sieve, where: str) -> list[Answer]:
    """Best first, without those that are too close to the one before them."""
    kept: list[Answer] = []
    for answer in sorted(answers, key=_score, reverse=True):
        if any(answer.text == before.text for before in kept):
            sieve.bad(SAME_TEXT, where)
        elif kept and _score(kept[-1]) - _score(answer) <= min_margin:
            sieve.leave_out(too_close(min_margin), where)
        else:
            kept.append(answer)
    return kept


def _best_and_other(prompt: Sequence[Message], answers: Sequence[Answer], seed: int) -> tuple[Answer, Answer]:
    best = max(range(len(answers)), key=lambda i: _score(answers[i]))
    return answers[best], _rng(prompt, seed).choice([a for i, a in enumerate(answers) if i != best])


def _rng(prompt: Sequence[Message], seed: int) -> random.Random:
    """Draws that depend on the prompt and not on what else is in the file."""
    return random.Random(f"{seed}/{json.dumps(list(prompt), sort_keys=True)}")


def too_close(min_margin: float) -> str:
    """The reason why a pair is left out for its scores."""
    more = f"differ by {min_margin:g} or less" if min_margin else "are equal"
    return f"two completions whose scores {more}"


def _score(answer: Answer) -> float:
    if answer.score is None:
        raise SawyerError("a completion has no score")
    return answer.score
