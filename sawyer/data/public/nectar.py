"""Nectar (Zhu et al. 2023): seven models' answers to a prompt, ranked by GPT-4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.hh import turns
from sawyer.data.public.answers import Answer, check_ranks, ranked_comparisons
from sawyer.data.public.base import Pairing, PublicSettings
from sawyer.data.public.fields import dialogue, items, name, number, text
from sawyer.data.records import Comparison, Message


class NectarSettings(PublicSettings):
    """Nectar. Columns: `prompt` (a dialogue of `Human:` and `Assistant:`), `answers` of `answer`, `model` and `rank`
    (1 is best), `source`, `good_natured`."""

    source: Literal["nectar"] = "nectar"
    hub: str = "berkeley-nest/Nectar"
    """Hub data set, when there is no path."""
    pairing: Pairing = "ranking"
    """The whole `ranking` (K = 7), `all` its pairs, or the best answer and a random other one (`best-random`)."""
    seed: int = 0
    """Seed of `best-random`."""
    good_natured: bool = False
    """Keep prompts only that are marked as good-natured."""


def read(settings: NectarSettings, sieve: Sieve) -> Iterator[Comparison]:
    def comparisons(row: Mapping[str, Any]) -> tuple[bool, list[Comparison]]:
        prompt, answers = _ranking(row)
        origins = row.get("source")
        if not (isinstance(origins, list) and all(isinstance(origin, str) for origin in origins)):
            origins = name(row, "source")
        return bool(row.get("good_natured", True)), list(
            ranked_comparisons(
                prompt, answers, settings.pairing, settings.seed, settings.source, "gpt-4", prompt_source=origins
            )
        )

    for where, (good_natured, made) in sieve.usable(comparisons):
        if settings.good_natured and not good_natured:
            sieve.leave_out("the prompt is not good-natured", where)
        else:
            yield from made


def _ranking(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], list[Answer]]:
    messages = turns(text(row, "prompt"))
    if messages and messages[-1] == {"role": "assistant", "content": ""}:
        del messages[-1]
    given = items(row, "answers")
    ranks = [number(item, "rank") for item in given]
    check_ranks(ranks, first=1)
    answers = [Answer(text(item, "answer").strip(), None, name(item, "model")) for item in given]
    return dialogue(messages), [answers[i] for i in sorted(range(len(ranks)), key=ranks.__getitem__)]
