"""From scored answers to comparisons: whom the best is paired with, who wrote each, and what each was given.

The pairs of Zephyr (Tunstall et al. 2023, arXiv 2310.16944) are the best answer by AI feedback and any other one at
random; those of iterative methods are the best and the worst.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sawyer.data.records import Comparison, Message, Prompt
from sawyer.methods.iterative import PairSettings, Rule, choose_pairs

Form = Literal["pairs", "rankings", "extremes", "best_random"]
_RULES: dict[Form, Rule] = {"extremes": "max_min", "best_random": "max_random", "pairs": "all"}


@dataclass(frozen=True)
class Scored:
    """One answer of a prompt.

    Attributes:
        text: the answer.
        writer: who wrote it.
        score: higher is better; not a number where it has none.
        details: what the score is made of.
    """

    text: str
    writer: str | None = None
    score: float = math.nan
    details: Mapping[str, float | None] = field(default_factory=dict)


def answer_id(messages: Sequence[Message], answer: str) -> str:
    """What an answer to a conversation is called in tables and files of labels: the same for the same texts."""
    text = json.dumps([[[turn["role"], turn["content"]] for turn in messages], answer])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def comparisons(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Scored]],
    form: Form,
    *,
    pairs: int = 1,
    min_margin: float = 0.0,
    seed: int = 0,
    labelled_by: str,
) -> list[Comparison]:
    """What prompts with scored answers give; answers without a score are in no comparison.

    Args:
        form: `best_random` (the best and any other at random), `extremes` (the best and the worst), `pairs` (some of
            all pairs, at random) or `rankings` (all, without those too close to the one before).
        pairs: of `pairs`: how many of a prompt.
        min_margin: scores that differ by no more than this are too close; 0 leaves out equal ones.
        seed: of what is drawn, which depends on the prompt too.
        labelled_by: what `info` says of who scored.
    """
    made = []
    for prompt, own in zip(prompts, answers, strict=True):
        for some in _grouped(own, form, pairs, min_margin, f"{seed}/{prompt.text}"):
            made.append(_comparison(prompt, [own[k] for k in some], labelled_by))
    return made


def _grouped(own: Sequence[Scored], form: Form, pairs: int, min_margin: float, seed: str) -> list[list[int]]:
    """The answers that are compared with each other, as indices, best first."""
    if form == "rankings":
        ranked: list[int] = []
        known = [k for k in range(len(own)) if not math.isnan(own[k].score)]
        for k in sorted(known, key=lambda k: -own[k].score):
            near = ranked and own[ranked[-1]].score - own[k].score <= min_margin
            if not near and all(own[k].text.strip() != own[other].text.strip() for other in ranked):
                ranked.append(k)
        return [ranked] if len(ranked) > 1 else []
    settings = PairSettings(rule=_RULES[form], min_margin=min_margin)
    number = random.Random(seed).getrandbits(32)
    chosen = choose_pairs([[one.score for one in own]], [[one.text for one in own]], settings, number)
    if form == "pairs":
        random.Random(seed).shuffle(chosen)
        chosen = chosen[:pairs]
    return [[pair.chosen, pair.rejected] for pair in chosen]


def _comparison(prompt: Prompt, some: Sequence[Scored], labelled_by: str) -> Comparison:
    info: dict[str, Any] = {**prompt.info, "labelled_by": labelled_by}
    if any(one.writer is not None for one in some):
        info["models"] = [one.writer for one in some]
    if any(one.details for one in some):
        info["details"] = [dict(one.details) for one in some]
    return Comparison(prompt.prompt, tuple(one.text for one in some), tuple(one.score for one in some), info)
