"""`sawyer data show`: records in a terminal. What models and strangers wrote is shown, and never obeyed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from sawyer.data.records import Comparison, Conversation, Labelled, Message, Record

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

CUT = 1000
"""Characters of a text that are shown, unless all is asked for."""
_STYLES = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}


def visible(text: str) -> str:
    r"""The text with its control and formatting characters written out, so that it cannot move the cursor, change the
    colours or turn the direction of what follows.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else _code(character)
        for character in text.replace("\r\n", "\n")
    )


def show(records: Sequence[Record], console: Console, *, whole: bool = False, first: int = 1) -> None:
    """Print records one below the other, with who wrote each completion and its score.

    Args:
        whole: do not cut long texts.
        first: the number of the first record.
    """
    from rich.panel import Panel

    for number, record in enumerate(records, start=first):
        console.print(Panel(_body(record, whole), title=_plain(_title(number, record)), title_align="left"))


def _title(number: int, record: Record) -> str:
    kind = type(record).__name__.lower()
    said = [str(record.info[name]) for name in ("source", "labelled_by") if record.info.get(name)]
    return " · ".join([f"{number}: {kind}", *said[:1], *(f"labelled by {who}" for who in said[1:])])


def _body(record: Record, whole: bool) -> RenderableType:
    from rich.console import Group

    parts: list[RenderableType] = []
    for head, style, content in _parts(record):
        parts += [_plain(head, f"bold {style}"), _plain(_cut(content, whole)), _plain("")]
    return Group(*parts[:-1])


def _parts(record: Record) -> Iterator[tuple[str, str, str]]:
    """Heading, colour and text of each part of a record."""
    if isinstance(record, Conversation):
        yield from _turns(record.messages)
        return
    yield from _turns(record.prompt)
    match record:
        case Comparison():
            for place, completion in enumerate(record.completions):
                yield _heading(record, place), "green" if place == 0 else "red", completion
        case Labelled():
            yield (
                f"completion, {'good' if record.label else 'bad'}",
                "green" if record.label else "red",
                record.completion,
            )


def _turns(messages: Iterable[Message]) -> Iterator[tuple[str, str, str]]:
    return ((message["role"], _STYLES.get(message["role"], "white"), message["content"]) for message in messages)


def _heading(record: Comparison, place: int) -> str:
    names = ["chosen", "rejected"] if len(record.completions) == 2 else [f"rank {i + 1}" for i in range(place + 1)]
    models = record.info.get("models")
    writer = models[place] if isinstance(models, list) and len(models) == len(record.completions) else None
    score = None if record.scores is None else f"score {record.scores[place]:g}"
    return ", ".join(filter(None, [names[place], f"by {writer}" if writer else None, score]))


def _cut(text: str, whole: bool) -> str:
    return text if whole or len(text) <= CUT else f"{text[:CUT]}\n[... {len(text) - CUT:,} more characters]"


def _plain(text: str, style: str = "") -> Text:
    """Text that rich does not read as markup."""
    from rich.text import Text

    return Text(visible(text), style=style)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
