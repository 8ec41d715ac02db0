"""How much completions of one prompt differ from each other, and how much each repeats itself.

All of it is taken by prompt and then averaged, so that it does not sink as prompts are added; it depends on the number
of samples of a prompt, so compare it only between policies that have equally many.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = Sequence[str]

BLEU_ORDER = 4
SMALLEST_MATCH = 0.1
"""What an order without a match counts (Chen & Cherry 2014, method 1)."""


def words(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def distinct(texts: Iterable[Words], n: int) -> float | None:
    """Distinct-n (Li et al. 2016) of one prompt's completions: different n-grams over all n-grams; None without any."""
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: Words, n: int = 4) -> float | None:
    """seq-rep-n (Welleck et al. 2020): the share of a completion's n-grams said before; None if too short."""
    grams = _ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[Words]) -> float | None:
    """Self-BLEU (Zhu et al. 2018): the mean BLEU-4 of each of one prompt's completions with the others as references.

    1 where all say the same, 0 where no two share a word. BLEU is that of a sentence (Papineni et al. 2002): counts are
    clipped at the most that any reference has, the brevity penalty looks at the reference of the nearest length, and
    orders without a match are smoothed. Completions without words are left out; None where fewer than two remain.
    """
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return None
    matches = [[0] * BLEU_ORDER for _ in texts]
    for n in range(BLEU_ORDER):
        counts = [Counter(_ngrams(text, n + 1)) for text in texts]
        most: dict[tuple[str, ...], tuple[int, int]] = {}  # of each n-gram the largest count of a text, and the next
        for own in counts:
            for gram, count in own.items():
                first, second = most.get(gram, (0, 0))
                most[gram] = (count, first) if count > first else (first, max(second, count))
        for i, own in enumerate(counts):
            for gram, count in own.items():
                first, second = most[gram]
                matches[i][n] += min(count, second if count == first else first)
    lengths = [len(text) for text in texts]
    return float(np.mean([_bleu(matches[i], i, lengths) for i in range(len(texts))]))


def dispersion(vectors: ArrayLike) -> float | None:
    """The mean cosine distance, 0 to 2, of every two of one prompt's completions, from their embeddings `[K, D]`.

    None with fewer than two. Vectors of length 0 have no direction: they count as orthogonal to all others.
    """
    x = np.asarray(vectors, dtype=np.float64)
    if len(x) < 2:
        return None
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    together = float((unit.sum(0) ** 2).sum()) - float((unit**2).sum())  # of all ordered pairs, each with another
    return 1 - together / (len(x) * (len(x) - 1))


def centred(vectors: ArrayLike) -> NDArray[np.float64]:
    """Embeddings `[N, D]` without what all have in common: the hidden states of a decoder all point one way (Ethayarajh
    2019), and cosines between them would be near 1 (Mu & Viswanath 2018)."""
    x = np.asarray(vectors, dtype=np.float64)
    return x - x.mean(0, keepdims=True)


def _bleu(matches: Sequence[int], i: int, lengths: Sequence[int]) -> float:
    """BLEU of text i, whose n-grams match so often, against the others."""
    if matches[0] == 0:
        return 0.0
    own = lengths[i]
    logs = [
        math.log((found or SMALLEST_MATCH) / max(1, own - n))  # own - n: how many n-grams there are of order n + 1
        for n, found in enumerate(matches)
    ]
    nearest = min((abs(length - own), length) for j, length in enumerate(lengths) if j != i)[1]
    brevity = 1.0 if own > nearest else math.exp(1 - nearest / own)
    return brevity * math.exp(sum(logs) / BLEU_ORDER)


def _ngrams(text: Words, n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
