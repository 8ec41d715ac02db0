"""HelpSteer (Wang et al. 2023): rows of a prompt and one response with five ratings; a prompt has several rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from sawyer.data.cleaning import Sieve
from sawyer.data.public.answers import Answer, scored_comparisons
from sawyer.data.public.base import ScoredSettings
from sawyer.data.public.fields import dialogue, number, text
from sawyer.data.records import Comparison, Conversation, Message, assistant, user

Attribute = Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
ATTRIBUTES: tuple[Attribute, ...] = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_TURN = re.compile(r"\n?<extra_id_1>(?:User|(Assistant))\n")  # HelpSteer2 writes dialogues so


class HelpSteerSettings(ScoredSettings):
    """HelpSteer. Columns: `prompt`, `response` and the five attributes, 0 to 4."""

    source: Literal["helpsteer"] = "helpsteer"
    hub: str = "nvidia/HelpSteer"
    """Hub data set, when there is no path."""
    form: Literal["comparisons", "ratings"] = "comparisons"
    """`ratings`: every response is a conversation of its own, and its `info` has the five `attributes`."""
    score: tuple[Attribute, ...] = Field(default=("helpfulness", "correctness"), min_length=1)
    """A response's score is the mean of these attributes."""


def read(settings: HelpSteerSettings, sieve: Sieve) -> Iterator[Comparison | Conversation]:
    usable = sieve.usable(lambda row: _response(row, settings))
    if settings.form == "ratings":
        for _, (_, prompt, answer) in usable:
            info = {"source": "helpsteer", "labelled_by": "people", "models": [answer.model]}
            yield Conversation((*prompt, assistant(answer.text)), {**info, "attributes": dict(answer.details)})
        return
    prompts: dict[str, tuple[str, tuple[Message, ...], list[Answer]]] = {}
    for where, (asked, prompt, answer) in usable:
        prompts.setdefault(asked, (where, prompt, []))[2].append(answer)
    for where, prompt, answers in prompts.values():
        if len(answers) < 2:
            sieve.leave_out("the prompt has one response only", where)
        else:
            yield from scored_comparisons(prompt, answers, settings, sieve, where, "people")


def _response(row: Mapping[str, Any], settings: HelpSteerSettings) -> tuple[str, tuple[Message, ...], Answer]:
    ratings: dict[str, float] = {attribute: number(row, attribute) for attribute in ATTRIBUTES}
    score = sum(ratings[attribute] for attribute in settings.score) / len(settings.score)
    asked = text(row, "prompt")
    first, *rest = _TURN.split(asked)
    turns = [user(first)]
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        turns.append(assistant(content) if speaker else user(content))
    return asked, dialogue(turns), Answer(text(row, "response"), score, "an NVIDIA model", ratings)
