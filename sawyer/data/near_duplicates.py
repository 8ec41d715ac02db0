"""Prompts that are nearly the same text, put into groups that a split must not part.

Two prompts are near-duplicates where the Jaccard similarity of their runs of three words is at least a threshold. All
such pairs are found, not most of them: words are compared by the prefix filter of exact similarity joins (Chaudhuri et
al. 2006; Bayardo et al. 2007). With the runs of every text in one order, rarest first, two texts as similar as wanted
must share one of their first few. MinHash would find the same pairs with a probability, and needs the same check of its
candidates.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sawyer.data.ngrams import words
from sawyer.data.records import Record
from sawyer.data.splits import split_key
from sawyer.errors import SawyerError

if TYPE_CHECKING:
    import numpy as np

RUN = 3
"""Words in a run."""
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that multiplication mod 2^64 loses nothing
_ROLE = re.compile(r"^(?:system|user|assistant|tool): ", re.MULTILINE)  # what `split_key` puts before each turn


def groups(records: Sequence[Record], threshold: float) -> list[int]:
    """For each record the number of its group: records whose prompts are near-duplicates, directly or by way of others.

    The groups depend on which prompts there are and not on their order; a group's number is the place of its first
    record. What is compared is what a split goes by, the opening of a record (`splits.split_key`).

    Args:
        threshold: Jaccard similarity, above 0 and at most 1, from which on two prompts are near-duplicates.

    Raises:
        SawyerError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise SawyerError(f"the similarity of near-duplicates must be above 0 and at most 1, it is {threshold:g}")
    openings = [split_key(record) for record in records]
    places = {opening: place for place, opening in enumerate(dict.fromkeys(openings))}
    roots = _connected(*_ranked_runs(list(places)), threshold)
    first: dict[int, int] = {}
    return [first.setdefault(roots[places[opening]], number) for number, opening in enumerate(openings)]


def _ranked_runs(texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
    """The distinct runs of each text as whole numbers, ascending: the rarer a run is in all texts, the lower. And how
    many of these numbers are of a run that one text only has: the lowest."""
    import numpy as np

    if not texts:
        return [], 0
    hashes: dict[str, int] = {}
    runs = [_runs(text, hashes) for text in texts]
    distinct, number, count = np.unique(np.concatenate(runs), return_inverse=True, return_counts=True)
    rank = np.empty(len(distinct), dtype=np.int64)
    rank[np.lexsort((distinct, count))] = np.arange(len(distinct))
    ends = np.cumsum([len(run) for run in runs])[:-1]
    return [np.sort(part) for part in np.split(rank[number], ends)], int((count == 1).sum())


def _runs(text: str, hashes: dict[str, int]) -> np.ndarray:
    """The distinct runs of a text, each hashed to 64 bits; of a text without words, the text itself."""
    import numpy as np

    said = words(_ROLE.sub("", text)) or [text]
    for word in said:
        if word not in hashes:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            hashes[word] = int.from_bytes(digest, "big")
    word_hashes = np.array([hashes[word] for word in said], dtype=np.uint64)
    length = min(RUN, len(said))
    joined = np.zeros(len(said) - length + 1, dtype=np.uint64)
    for i in range(length):
        joined = joined * np.uint64(_MULTIPLIER) + word_hashes[i : len(said) - length + 1 + i]
    return np.unique(joined)


def _connected(runs: Sequence[np.ndarray], lone: int, threshold: float) -> list[int]:
    """The root of each text in the graph of near-duplicates (union-find).

    Runs below `lone` are of one text only, and nothing is shared by them. The holders of a run are kept apart by the
    group that they were in: who belongs to it already need not be compared with the rest of it, however many they are.
    """
    import numpy as np

    parent, members = list(range(len(runs))), [1] * len(runs)

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    def join(one: int, other: int) -> None:
        small, large = sorted((root(one), root(other)), key=members.__getitem__)
        parent[small] = large
        members[large] += members[small]

    def similar(one: int, other: int) -> bool:
        shared = len(np.intersect1d(runs[one], runs[other], assume_unique=True))
        return shared >= threshold * (len(runs[one]) + len(runs[other]) - shared) - 1e-9

    holders: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)
    for one in sorted(range(len(runs)), key=lambda i: len(runs[i])):
        least = math.ceil(threshold * len(runs[one]) - 1e-9)  # runs that a text no larger must share with this one
        first = runs[one][: len(runs[one]) - least + 1]
        seen: set[int] = set()
        for run in first[first >= lone].tolist():
            for group, texts in holders[run].items():
                if root(group) == root(one):
                    continue
                for other in texts:
                    if other in seen or len(runs[other]) < least:
                        continue
                    seen.add(other)
                    if similar(one, other):
                        join(one, other)
                        break
            holders[run].setdefault(root(one), []).append(one)
    return [root(one) for one in range(len(runs))]
