"""Words and runs of words: what near-duplicates and overlaps are told by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and differences of Unicode form.

    >>> words("What's a “Glacier”?")
    ['what', 's', 'a', 'glacier']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(text_words: Sequence[str], n: int) -> list[str]:
    """Every run of `n` words; of a shorter text, all its words as one run; of none, nothing."""
    if not text_words:
        return []
    return [" ".join(text_words[i : i + n]) for i in range(max(1, len(text_words) - n + 1))]
