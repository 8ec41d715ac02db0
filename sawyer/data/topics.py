"""What the verifiable-instruction prompts are about: handwritten topics with a question and a few true sentences each.

The texts are plain data in `topic_facts/*.txt`; the head of `nature.txt` says how a block is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Topic:
    """Something to ask about."""

    name: str
    aliases: tuple[str, ...]
    """Other words that count as naming it: plurals, close synonyms."""
    question: str
    facts: tuple[str, ...]
    """Sentences of a possible answer; the first names the topic and can stand alone."""

    def is_named_in(self, text: str) -> bool:
        return any(re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) for name in (self.name, *self.aliases))


@cache
def topics() -> dict[str, Topic]:
    """All topics by name, in the order of the files."""
    found: dict[str, Topic] = {}
    for path in sorted((Path(__file__).parent / "topic_facts").glob("*.txt")):
        text = "\n".join(line for line in path.read_text("utf-8").split("\n") if not line.startswith("#"))
        for block in re.split(r"\n{2,}", text.strip()):
            head, *facts = block.split("\n")
            name, aliases, question = (part.strip() for part in head.split("|"))
            others = tuple(alias.strip() for alias in aliases.split(",") if alias.strip() != "-")
            found[name] = Topic(name, others, question, tuple(facts))
    return found
