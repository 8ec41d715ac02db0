"""The constraints that can be checked by a program: their kinds, how they are asked for, and how far a text meets them.

A constraint is a JSON object, `{"kind": "max_words", "n": 25}`. `satisfaction` gives 1 for met, 0 for missed, and
something between where half-met has a natural meaning, so that a policy finds a slope to climb. No instance of a
constraint (kind and parameters) is in two splits: `values` deals them out once and for all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from sawyer.errors import SawyerError

Constraint = Mapping[str, Any]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}

STARTS = (
    "In short,", "Put simply,", "To begin with,", "Here is the answer:", "As far as I know,", "In plain words,",
    "Simply put,", "Good question!", "Well,", "In brief,", "Of course!", "Let me explain.", "To put it briefly,",
    "In a nutshell:", "Here is what I know:", "The short answer:", "In simple terms,", "Sure thing!", "First of all,",
    "Happy to help!", "As you may know,", "Briefly,", "To answer your question,", "Here you go:",
)  # fmt: skip
ENDINGS = (
    "That is all.", "I hope this helps.", "And that is the whole story.", "Now you know.", "That is the main idea.",
    "Feel free to ask for more.", "This is the end of my answer.", "That covers the basics.", "Thanks for asking.",
    "Have a nice day!", "Isn't that interesting?", "There is always more to learn.", "That is worth remembering.",
    "Let me know if that is clear.", "That sums it up.", "Nature and people are full of surprises.", "End of answer.",
    "It is as simple as that.", "Good luck with your studies!", "Keep asking good questions.", "That is my answer.",
    "Is there anything else?", "So much for today.", "That should do it.",
)  # fmt: skip


# --- reading a text -------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s+\S")
_BULLET = re.compile(r"^\s*[-*•]\s+\S")
_MARKER = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)


def words(text: str) -> list[str]:
    """The words of a text, without the numbers and dashes that mark list items."""
    return _WORD.findall(_MARKER.sub("", text))


def sentences(text: str) -> list[str]:
    """Sentences end at `.`, `!` or `?` before white space; every list item ends one too."""
    lines = [_MARKER.sub("", line) for line in text.split("\n")]
    pieces = [piece for line in lines for piece in re.split(r"(?<=[.!?])[\"')\]”’]*\s+", line)]
    return [piece.strip() for piece in pieces if _WORD.search(piece)]


def paragraphs(text: str) -> list[str]:
    """Blocks of text with a blank line between them."""
    return [block for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]


def contains_word(text: str, word: str) -> bool:
    """Whole words only, upper or lower case: "light" is not in "lightning"."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


# --- how far a text meets a constraint ------------------------------------------------------------------------------


def _closeness(count: int, wanted: int) -> float:
    """1 when equal, falling in a straight line to 0 at none or at twice as many."""
    return max(0.0, 1 - abs(count - wanted) / wanted)


def _at_most(text: str, n: int) -> float:
    count = len(words(text))
    return 0.0 if count == 0 else max(0.0, 1 - max(0, count - n) / n)


def _at_least(text: str, n: int) -> float:
    return min(1.0, len(words(text)) / n)


def _list(text: str, item: re.Pattern[str], k: int) -> float:
    """Closeness of the number of items, times the share of lines that are items (one opening line before is free)."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and not item.match(lines[0]):
        lines = lines[1:]
    items = [line for line in lines if item.match(line)]
    return _closeness(len(items), k) * len(items) / len(lines) if items else 0.0


def _numbered(text: str, k: int) -> float:
    numbers = [int(match[1]) for line in text.split("\n") if (match := _NUMBERED.match(line))]
    in_order = numbers == list(range(1, len(numbers) + 1))
    return _list(text, _NUMBERED, k) * (1.0 if in_order else 0.5)


def _case(text: str, case: str) -> float:
    """Share of the sentences that are wholly in the case."""
    found = sentences(text)
    right = str.lower if case == "lower" else str.upper
    return sum(sentence == right(sentence) for sentence in found) / len(found) if found else 0.0


def _starts(text: str, phrase: str) -> float:
    """1 for the exact phrase, half for the same words in other case or punctuation."""
    if text.strip().startswith(phrase):
        return 1.0
    return 0.5 if text.strip().lower().startswith(_bare(phrase)) else 0.0


def _ends(text: str, phrase: str) -> float:
    if text.strip().endswith(phrase):
        return 1.0
    return 0.5 if _bare(text).endswith(_bare(phrase)) else 0.0


def _bare(text: str) -> str:
    return text.strip().lower().rstrip(".,:!?")


@dataclass(frozen=True)
class Kind:
    """One kind of constraint."""

    group: str
    """A prompt has at most one constraint of a group."""
    weight: float
    """How often it is drawn, relative to the others."""
    satisfied: Callable[..., float]
    """(text, **parameters) -> 0 to 1."""
    phrasings: tuple[str, ...]
    """Imperative clauses with the parameters in braces."""
    excludes: tuple[str, ...] = ()
    """Groups that cannot be met together with it."""


KINDS: dict[str, Kind] = {
    "max_words": Kind(
        "length", 3, _at_most,
        ("use at most {n} words", "answer in no more than {n} words", "keep it to {n} words or fewer",
         "stay within {n} words", "do not go over {n} words"),
    ),
    "min_words": Kind(
        "length", 1, _at_least,
        ("use at least {n} words", "write {n} words or more", "make it at least {n} words long",
         "do not write fewer than {n} words"),
    ),
    "word_range": Kind(
        "length", 2, lambda text, low, high: min(_at_most(text, high), _at_least(text, low)),
        ("use between {low} and {high} words", "write {low} to {high} words",
         "keep the answer between {low} and {high} words long"),
    ),
    "keyword": Kind(
        "keyword", 3, lambda text, word: float(contains_word(text, word)),
        ('include the word "{word}"', 'use the word "{word}" somewhere', 'make sure the word "{word}" appears',
         'mention the word "{word}"'),
    ),
    "forbidden": Kind(
        "forbidden", 1.5, lambda text, word: float(not contains_word(text, word)),
        ('do not use the word "{word}"', 'avoid the word "{word}"', 'leave out the word "{word}"',
         'answer without the word "{word}"'),
    ),
    "numbered_list": Kind(
        "shape", 1, _numbered,
        ("write the answer as a numbered list of {k} items", "give exactly {k} points as a numbered list",
         "answer with a numbered list that has {k} entries"),
        ("start", "end", "case"),
    ),
    "bullet_list": Kind(
        "shape", 1, lambda text, k: _list(text, _BULLET, k),
        ("answer with a list of {k} bullet points", "give exactly {k} bullet points",
         "write a bulleted list of {k} items, each on its own line"),
        ("start", "end", "case"),
    ),
    "paragraphs": Kind(
        "shape", 0.7, lambda text, k: _closeness(len(paragraphs(text)), k),
        ("write exactly {k} paragraphs with a blank line between them", "split the answer into {k} paragraphs"),
    ),
    "one_paragraph": Kind(
        "shape", 0.7, lambda text, lines: float(len([line for line in text.split("\n") if line.strip()]) == lines),
        ("write a single paragraph", "keep it to one paragraph without line breaks", "use one paragraph and no list"),
    ),
    "sentences": Kind(
        "shape", 2, lambda text, k: _closeness(len(sentences(text)), k),
        ("write exactly {k} sentences", "answer in {k} sentences", "use {k} sentences, no more and no fewer"),
    ),
    "case": Kind(
        "case", 0.5, _case,
        ("write everything in {case} case letters", "use only {case} case letters"),
        ("start", "end", "shape"),
    ),
    "starts_with": Kind(
        "start", 1.5, lambda text, phrase: _starts(text, phrase),
        ('begin your answer with "{phrase}"', 'start with the words "{phrase}"', 'let the answer open with "{phrase}"'),
        ("case",),
    ),
    "ends_with": Kind(
        "end", 1.5, lambda text, phrase: _ends(text, phrase),
        ('end with the words "{phrase}"', 'finish with exactly these words: "{phrase}"',
         'let the last words of your answer be "{phrase}"'),
        ("case",),
    ),
}  # fmt: skip


def satisfaction(constraint: Constraint, text: str) -> float:
    """How far `text` meets the constraint, 0 to 1; an empty text meets none.

    Raises:
        SawyerError: the constraint is of no known kind, or lacks a parameter of its kind.
    """
    parameters = {name: value for name, value in constraint.items() if name != "kind"}
    try:
        satisfied = KINDS[constraint["kind"]].satisfied
        return satisfied(text, **parameters) if text.strip() else 0.0
    except (KeyError, TypeError):
        raise SawyerError(
            f"{dict(constraint)} is not a constraint that can be checked; known kinds are {', '.join(KINDS)}"
        ) from None


# --- which split may use what ---------------------------------------------------------------------------------------

# Too few for a hash to deal out fairly; lists of one or two values are dealt by hand.
_BY_HAND: dict[str, dict[str, list[dict[str, Any]]]] = {
    "numbered_list": {"train": [{"k": 2}, {"k": 5}], "validation": [{"k": 3}], "test": [{"k": 4}]},
    "bullet_list": {"train": [{"k": 3}, {"k": 5}], "validation": [{"k": 4}], "test": [{"k": 2}]},
    "sentences": {"train": [{"k": 2}, {"k": 4}, {"k": 6}], "validation": [{"k": 5}], "test": [{"k": 3}]},
    "paragraphs": {"train": [{"k": 2}], "validation": [{"k": 4}], "test": [{"k": 3}]},
    "one_paragraph": {"train": [{"lines": 1}], "validation": [], "test": []},
    "case": {"train": [{"case": "lower"}], "validation": [], "test": [{"case": "upper"}]},
}
_BY_HASH: dict[str, list[dict[str, Any]]] = {
    "max_words": [{"n": n} for n in range(15, 51)],
    "min_words": [{"n": n} for n in range(15, 41)],
    "word_range": [{"low": low, "high": low + width} for low in range(10, 34) for width in (6, 8, 10, 12)],
    "starts_with": [{"phrase": phrase} for phrase in STARTS],
    "ends_with": [{"phrase": phrase} for phrase in ENDINGS],
}


@cache
def values(kind: str, split: str) -> tuple[Constraint, ...]:
    """The constraints of a kind with listed parameters that a split may use (words have `word_split` instead)."""
    if kind in _BY_HAND:
        found = _BY_HAND[kind][split]
    else:
        all_values = _BY_HASH[kind]
        parts = deal([f"{kind}/{value}" for value in all_values])
        found = [value for value in all_values if parts[f"{kind}/{value}"] == split]
    return tuple({"kind": kind, **value} for value in found)


def deal(names: list[str]) -> dict[str, str]:
    """Each name's split: the names in the order of their hashes, cut at the shares of `SHARES`."""
    order = sorted(names, key=_fraction)
    ends = [round(len(order) * SHARES["train"]), round(len(order) * (SHARES["train"] + SHARES["validation"]))]
    return {name: SPLITS[(i >= ends[0]) + (i >= ends[1])] for i, name in enumerate(order)}


def word_split(word: str) -> str:
    """The one split that may ask for a word, or forbid it."""
    fraction = _fraction(f"word/{word.lower()}")
    return "train" if fraction < SHARES["train"] else "validation" if fraction < 1 - SHARES["test"] else "test"


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
