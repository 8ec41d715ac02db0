"""ROUGE-L: how many of two texts' words are the same in the same order (Lin 2004, "ROUGE").

Words are what the `rouge-score` package takes for words where it does not stem: runs of a-z and 0-9 in the text in
lower case. So the numbers are its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_WORD = re.compile(r"[a-z0-9]+")


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE compares.

    >>> rouge_words("Name the 3 longest rivers, won't you?")
    ['name', 'the', '3', 'longest', 'rivers', 'won', 't', 'you']
    """
    return _WORD.findall(text.lower())


def rouge_l(one: str, other: str) -> float:
    """The F1 of two texts' longest common subsequence of words, 0 to 1; 0 where a text has no words."""
    nearest, _ = Overlaps([one]).nearest(other)
    return nearest


class Overlaps:
    """Texts, and which of them a new one is nearest to.

    A subsequence is found by arithmetic on whole numbers, a bit for each word of the new text (Hyyrö 2004,
    "Bit-parallel LCS-length computation revisited"), and only where the words that two texts share leave room for a
    better one.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._words: list[list[str]] = []
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._words)

    def add(self, text: str) -> None:
        """Have later texts compared with this one too."""
        self._words.append(rouge_words(text))

    def nearest(self, text: str) -> tuple[float, int | None]:
        """The highest ROUGE-L with any of the texts, and the number (from 0) of the first that has it; 0 and None where
        no text shares a word."""
        own = rouge_words(text)
        places: dict[str, int] = {}
        for place, word in enumerate(own):
            places[word] = places.get(word, 0) | 1 << place
        best, which = 0.0, None
        for number, words in enumerate(self._words):
            total = len(own) + len(words)
            if 2 * min(len(own), len(words)) <= best * total:
                continue
            if 2 * min(len(own), sum(map(places.__contains__, words))) <= best * total:
                continue
            overlap = 2 * _common(words, places, len(own)) / total
            if overlap > best:
                best, which = overlap, number
        return best, which


def _common(words: Sequence[str], places: Mapping[str, int], length: int) -> int:
    """Length of the longest common subsequence of `words` and the text of `length` words that `places` has as bits."""
    every = (1 << length) - 1
    row = every
    for word in words:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & every
    return length - row.bit_count()
