"""Bad completions made from good ones: a reward model that does not see these, sees nothing.

Each probe is a function of a good completion and a random generator, or None where the text does not allow it (one
sentence cannot be put into another order). The same seed gives the same texts, whatever else is made with them.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sawyer.errors import SawyerError
from sawyer.evals import stats
from sawyer.evals.policies import as_json

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LETTERS = re.compile(r"[^\W\d_]")


def gibberish(text: str, rng: random.Random) -> str | None:
    """Every letter another one: words, punctuation and length stay."""
    return _changed(_LETTERS.sub(lambda letter: _letter(letter[0], rng), text), text)


def repeated(text: str, rng: random.Random) -> str | None:
    """The first sentence over and over, about as long as the whole."""
    first = _SENTENCE.split(text.strip())[0]
    if not first:
        return None
    times = max(2, round(len(text) / (len(first) + 1)))
    return _changed(" ".join([first] * times), text)


def truncated(text: str, rng: random.Random) -> str | None:
    """The first third to two thirds of the words, cut off without an end."""
    words = list(re.finditer(r"\S+", text))
    if len(words) < 3:
        return None
    kept = max(1, min(len(words) - 1, round(len(words) * rng.uniform(1 / 3, 2 / 3))))
    return text[: words[kept - 1].end()].rstrip(string.punctuation) or None


def empty(text: str, rng: random.Random) -> str | None:
    """Nothing."""
    return "" if text else None


def order_swapped(text: str, rng: random.Random) -> str | None:
    """The same sentences in another order; of a single sentence, the words."""
    parts = [part for part in _SENTENCE.split(text.strip()) if part]
    if len(parts) < 2:
        parts = text.split()
    if len(set(parts)) < 2:
        return None
    shuffled = list(parts)
    while shuffled == parts:
        rng.shuffle(shuffled)
    return _changed(" ".join(shuffled), text)


PROBES: dict[str, Callable[[str, random.Random], str | None]] = {
    "gibberish": gibberish,
    "repeated": repeated,
    "truncated": truncated,
    "empty": empty,
    "order_swapped": order_swapped,
}
"""Probes that need nothing but the completion. The other one, `off_topic`, is a good answer to another prompt."""
NAMES = (*PROBES, "off_topic")


def probe_pairs(
    prompts: Sequence[object], completions: Sequence[str], seed: int = 0
) -> dict[str, list[tuple[int, str]]]:
    """For each probe, the bad completions that can be made: (index of the good one, text of the bad one).

    Args:
        prompts: [n] what identifies the prompt of each completion (hashable).
        completions: [n] the good ones.
        seed: of all choices.

    Raises:
        SawyerError: numbers that do not match.
    """
    if len(prompts) != len(completions):
        raise SawyerError(f"there are {len(prompts)} prompts but {len(completions)} completions")
    made: dict[str, list[tuple[int, str]]] = {}
    for name, probe in PROBES.items():
        texts = [(i, probe(text, random.Random(f"{seed}/{name}/{text}"))) for i, text in enumerate(completions)]
        made[name] = [(i, text) for i, text in texts if text is not None]
    made["off_topic"] = _off_topic(prompts, completions, seed)
    return made


def evaluate(
    margins: Mapping[str, Sequence[float]],
    prompts: Mapping[str, Sequence[object]],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """For each probe, how often the good completion beats the bad one (a tie is half), and by how much.

    Args:
        margins: for each probe [n] reward(good) - reward(bad).
        prompts: for each probe [n] the prompt, for the intervals.
        level: coverage of the intervals.
        seed: of the resampling.

    Returns:
        for each probe with pairs `{"accuracy", "margin"}`, figures `{"mean", "low", "high", "n"}`.
    """
    found = {}
    for name, values in margins.items():
        if len(values):
            m = np.asarray(values, dtype=np.float64)
            names = list(prompts[name])
            found[name] = {
                "accuracy": as_json(stats.win_rate(m, np.zeros_like(m), names, level)),
                "margin": as_json(stats.bootstrap_mean(m, names, level, 2_000, seed)),
            }
    return found


def _off_topic(prompts: Sequence[object], completions: Sequence[str], seed: int) -> list[tuple[int, str]]:
    """Each good completion's place taken by that of another prompt, in a random round of the prompts."""
    first: dict[object, int] = {}
    for i, prompt in enumerate(prompts):
        first.setdefault(prompt, i)
    if len(first) < 2:
        return []
    ring = list(first)
    random.Random(f"{seed}/off_topic").shuffle(ring)
    after = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    swapped = [(i, completions[first[after[prompt]]]) for i, prompt in enumerate(prompts)]
    return [(i, text) for i, text in swapped if text != completions[i]]


def _letter(letter: str, rng: random.Random) -> str:
    other = rng.choice(string.ascii_lowercase.replace(letter.lower(), ""))
    return other.upper() if letter.isupper() else other


def _changed(text: str, original: str) -> str | None:
    return None if text.strip() == original.strip() else text
