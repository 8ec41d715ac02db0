"""Splits by prompt: the hash of a record's opening decides where it goes, whatever else the file holds.

So a split does not depend on the order of the records or on how many there are, adding data moves nothing, and all
answers to one question, and all turns of one dialogue, stay on one side.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from sawyer.data.records import Conversation, Message, Record
from sawyer.errors import SawyerError


def split(
    records: Sequence[Record], fractions: Mapping[str, float], seed: int = 0, groups: Sequence[int] | None = None
) -> dict[str, list[Record]]:
    """Deal records into named splits of about these fractions, keeping their order.

    Args:
        fractions: share of each split, above 0, in sum 1. A split's range of hashes starts where the one before ends.
        seed: hashed with the opening; two files dealt with the same seed and fractions agree on every prompt.
        groups: for each record the number of a group that stays together (`near_duplicates.groups`). The whole group
            goes where its alphabetically first opening goes, so a record that joins it may move it.

    Raises:
        SawyerError: the fractions are none, not above 0, or do not add up to 1.
    """
    if (problem := fractions_problem(fractions)) is not None:
        raise SawyerError(problem)
    parts: dict[str, list[Record]] = {name: [] for name in fractions}
    keys: Iterable[str] = map(split_key, records)
    if groups is not None:
        keys = list(keys)
        first: dict[int, str] = {}
        for group, key in zip(groups, keys, strict=True):
            first[group] = min(key, first.get(group, key))
        keys = [first[group] for group in groups]
    for record, key in zip(records, keys, strict=True):
        parts[_part(key, fractions, seed)].append(record)
    return parts


def fractions_problem(fractions: Mapping[str, float]) -> str | None:
    """Why these cannot be the fractions of a split, as a sentence; None where they can."""
    if not fractions or not all(share > 0 for share in fractions.values()):
        return f"the fractions of a split must be above 0, they are {dict(fractions)}"
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        return f"the fractions of a split must add up to 1, {dict(fractions)} give {sum(fractions.values()):g}"
    return None


def _part(key: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}\n{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    place, end = int.from_bytes(digest, "big") / 2**64, 0.0
    for name, share in fractions.items():
        end += share
        if place < end:
            return name
    return name


def split_key(record: Record) -> str:
    """The normalised opening of a record: what is said before the first answer, without the system turn.

    Case, white space and Unicode forms are evened out. A dialogue has one opening however many turns of it a record
    holds, so the pairs that HH-RLHF draws from one dialogue keep together, as do a comparison and the conversation or
    the prompt made of it.
    """
    messages = record.messages if isinstance(record, Conversation) else record.prompt
    spoken = [message for message in messages if message["role"] != "system"]
    opening: list[Message] = []
    for message in spoken or messages:
        if message["role"] == "assistant" and any(turn["role"] == "user" for turn in opening):
            break
        opening.append(message)
    return "\n".join(f"{message['role']}: {_normalised(message['content'])}" for message in opening)


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
