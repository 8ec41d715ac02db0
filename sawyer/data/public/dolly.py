"""databricks-dolly-15k (Conover et al. 2023): instructions that people wrote and answered. SAWYER's PPO ran on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.public.base import PublicSettings
from sawyer.data.public.fields import name, question, text
from sawyer.data.records import Conversation, assistant
from sawyer.errors import SawyerError

Category = Literal[
    "brainstorming",
    "classification",
    "closed_qa",
    "creative_writing",
    "general_qa",
    "information_extraction",
    "open_qa",
    "summarization",
]


class DollySettings(PublicSettings):
    """Dolly. Columns: `instruction`, `context` (may be empty), `response`, `category`.

    A record is a conversation of one question and its answer: tune on it, or have the stage `data` or `ppo` take its
    prompts. The question is the instruction and, where there is one, the context after a blank line.
    """

    source: Literal["dolly"] = "dolly"
    hub: str = "databricks/databricks-dolly-15k"
    """Hub data set, when there is no path."""
    categories: tuple[Category, ...] = ()
    """Keep rows of these categories only; none means all."""
    drop_context: bool = False
    """Leave out rows with a context, which are questions about a text."""


def read(settings: DollySettings, sieve: Sieve) -> Iterator[Conversation]:
    for where, (record, has_context) in sieve.usable(_row):
        if settings.categories and record.info.get("category") not in settings.categories:
            sieve.leave_out("the row is of another category", where)
        elif settings.drop_context and has_context:
            sieve.leave_out("the instruction has a context", where)
        else:
            yield record


def _row(row: Mapping[str, Any]) -> tuple[Conversation, bool]:
    asked, context = text(row, "instruction").strip(), row.get("context") or ""
    if not isinstance(context, str):
        raise SawyerError("`context` is not text")
    context = context.strip()
    info: dict[str, Any] = {"source": "dolly", "models": ["a person"]}
    if (category := name(row, "category")) is not None:
        info["category"] = category
    prompt = question(f"{asked}\n\n{context}" if context else asked)
    return Conversation((*prompt, assistant(text(row, "response").strip())), info), bool(context)
