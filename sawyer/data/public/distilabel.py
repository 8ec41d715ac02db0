"""Argilla's sets built with distilabel, in which an AI judge rated two answers: maths, Orca and Capybara."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sawyer.data.cleaning import Sieve
from sawyer.data.formats import turns_of
from sawyer.data.public.answers import SAME_TEXT, Answer, comparison, too_close
from sawyer.data.public.base import PublicSettings
from sawyer.data.public.fields import dialogue, name, number, question, text
from sawyer.data.records import Comparison, Message, user
from sawyer.errors import SawyerError

JUDGE = "an AI judge (distilabel)"


class RatedPairSettings(PublicSettings):
    """Settings of a set of pairs of which both sides are rated."""

    min_margin: float = Field(default=0.0, ge=0)
    """Leave out pairs whose ratings differ by no more than this; 0 leaves out equal ratings."""


class MathSettings(RatedPairSettings):
    """Argilla-Math. Columns: `instruction`, `chosen_response`, `chosen_rating`, `rejected_response` and
    `rejected_rating`."""

    source: Literal["argilla-math"] = "argilla-math"
    hub: str = "argilla/distilabel-math-preference-dpo"
    """Hub data set, when there is no path."""


class OrcaSettings(RatedPairSettings):
    """OpenOrca pairs. Columns: `system`, `input`, `chosen`, `rejected`, `rating` (of both), `status`, `chosen_score`,
    `in_gsm8k_train`, `labelling_model`."""

    source: Literal["orca"] = "orca"
    hub: str = "argilla/distilabel-intel-orca-dpo-pairs"
    """Hub data set, when there is no path."""
    min_chosen_rating: float | None = None
    """Keep pairs whose better answer is rated at least so (1 to 10); the set's card suggests 8."""
    without_gsm8k: bool = False
    """Leave out questions of GSM8K's training set."""


class CapybaraSettings(RatedPairSettings):
    """Capybara. Columns: `chosen` and `rejected` (whole dialogues), `rating_chosen`, `rating_rejected`, `chosen_model`,
    `rejected_model`, `source`."""

    source: Literal["capybara"] = "capybara"
    hub: str = "argilla/distilabel-capybara-dpo-7k-binarized"
    """Hub data set, when there is no path."""


def read_math(settings: MathSettings, sieve: Sieve) -> Iterator[Comparison]:
    def pair(row: Mapping[str, Any]) -> tuple[Sequence[Message], list[Answer]]:
        return question(text(row, "instruction")), [
            Answer(text(row, f"{side}_response"), number(row, f"{side}_rating")) for side in ("chosen", "rejected")
        ]

    for where, (prompt, answers) in sieve.usable(pair):
        yield from _rated_pair(prompt, answers, settings, sieve, where, JUDGE)


def read_orca(settings: OrcaSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (row, prompt, texts, ratings) in sieve.usable(_orca):
        if not ratings:
            sieve.leave_out("the pair is not rated", where)
        elif settings.without_gsm8k and row.get("in_gsm8k_train"):
            sieve.leave_out("the question is of GSM8K's training set", where)
        elif settings.min_chosen_rating is not None and ratings[0] < settings.min_chosen_rating:
            sieve.leave_out(f"the better answer is rated below {settings.min_chosen_rating:g}", where)
        else:
            writers = ["gpt-3.5 or gpt-4", "llama-2-13b-chat"]
            if row.get("status") == "swapped":
                writers.reverse()
            answers = [Answer(*each) for each in zip(texts, ratings, writers, strict=True)]
            judge = row.get("labelling_model")
            judge = judge[0] if isinstance(judge, list) and judge else judge
            labelled_by = judge if isinstance(judge, str) and judge else JUDGE
            yield from _rated_pair(prompt, answers, settings, sieve, where, labelled_by)


def read_capybara(settings: CapybaraSettings, sieve: Sieve) -> Iterator[Comparison]:
    for where, (prompt, answers, origin) in sieve.usable(_capybara):
        yield from _rated_pair(prompt, answers, settings, sieve, where, JUDGE, prompt_source=origin)


def _rated_pair(
    prompt: Sequence[Message],
    answers: Sequence[Answer],
    settings: RatedPairSettings,
    sieve: Sieve,
    where: str,
    labelled_by: str,
    **more: Any,
) -> Iterator[Comparison]:
    chosen, rejected = answers
    margin = (chosen.score or 0.0) - (rejected.score or 0.0)
    if chosen.text == rejected.text:
        sieve.bad(SAME_TEXT, where)
    elif margin < 0:
        sieve.leave_out("the chosen answer is rated below the rejected one", where)
    elif margin <= settings.min_margin:
        sieve.leave_out(too_close(settings.min_margin), where)
    else:
        yield comparison(prompt, answers, settings.source, labelled_by, **more)


def _orca(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[Message, ...], tuple[str, str], list[float]]:
    """The row, its prompt, the two answers, and their ratings, the better first: none where the pair is not rated."""
    prompt: tuple[Message, ...] = question(text(row, "input"))
    system = name(row, "system")
    if system is not None and system.strip():
        prompt = ({"role": "system", "content": system}, *prompt)
    given = row.get("rating") or []
    if not isinstance(given, list):
        raise SawyerError("`rating` is not a list")
    rated = len(given) == 2 and None not in given
    ratings = sorted((number({"rating": one}, "rating") for one in given), reverse=True) if rated else []
    return row, prompt, (text(row, "chosen"), text(row, "rejected")), ratings


def _capybara(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], list[Answer], str | None]:
    """Both dialogues have the same turns but for the last, which is the answer."""
    contexts, answers = [], []
    for side in ("chosen", "rejected"):
        *context, last = turns_of(row.get(side)) or [user("")]
        if last["role"] != "assistant":
            raise SawyerError(f"`{side}` does not end with an answer")
        answer = Answer(text(last, "content"), number(row, f"rating_{side}"), name(row, f"{side}_model"))
        contexts.append(dialogue(context))
        answers.append(answer)
    if contexts[0] != contexts[1]:
        raise SawyerError("the two dialogues differ before the final answer")
    return contexts[0], answers, name(row, "source")
