"""Gold reward for the verifiable-instructions task: computed from the text by rules, hand-checkable, nothing learned.

    reward = mean of the constraints' satisfaction x quality
    quality = substance x topic x originality x no_repetition x ending

each of them between 0 and 1 (see `quality`). Multiplying means that text which meets the constraints but is no answer
earns little: an empty text 0, a copy of the prompt 0, the same sentence over and over next to nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from sawyer.data.constraints import Constraint, satisfaction, sentences
from sawyer.data.records import Prompt
from sawyer.data.topics import topics
from sawyer.data.verifiable import ENOUGH_WORDS, demand_free_words
from sawyer.errors import SawyerError

OFF_TOPIC = 0.4
CUT_OFF = 0.7
FREE_COPY = 0.2
FREE_REPETITION = 0.1
STEEPNESS = 0.4


class VerifiableReward:
    """The gold reward of prompts made by `data.verifiable`, between 0 and 1."""

    name = "gold"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Feedback.score`.

        Raises:
            SawyerError: a prompt carries no constraints in its `info`.
        """
        return [
            [self.breakdown(prompt, completion)["reward"] for completion in of_prompt]
            for prompt, of_prompt in zip(prompts, completions, strict=True)
        ]

    def breakdown(self, prompt: Prompt, completion: str) -> dict[str, Any]:
        """The reward and what it is made of: `constraint_mean`, `constraints` with `satisfaction` each, `quality`."""
        constraints = _constraints(prompt)
        met = [satisfaction(constraint, completion) for constraint in constraints]
        mean = sum(met) / len(met)
        factors = quality(prompt, completion)
        return {
            "reward": mean * math.prod(factors.values()),
            "constraint_mean": mean,
            "constraints": [{**c, "satisfaction": m} for c, m in zip(constraints, met, strict=True)],
            "quality": factors,
        }


def quality(prompt: Prompt, completion: str) -> dict[str, float]:
    """The five factors of quality, each 0 to 1.

    - `substance`: 1 from ten words on, in proportion below; demanded opening and closing phrases do not count.
    - `topic`: 1 if the topic or one of its other names is mentioned, else 0.4.
    - `originality`: with c the share of the answer's 4-word sequences that stand in the prompt too, 1 up to c = 0.2,
      falling in a straight line to 0 at c = 0.6.
    - `no_repetition`: share of sentences that differ from all before them, times the same kind of line for the share of
      3-word sequences that occurred before: 1 up to 0.1, 0 at 0.5.
    - `ending`: 1 if the text ends with a full stop or exclamation mark, as a list item, or with the phrase that was
      demanded; else 0.7.
    """
    constraints = _constraints(prompt)
    own = demand_free_words(completion, constraints)
    asked = set(_sequences(demand_free_words(prompt.text, []), 4))
    fours, threes = _sequences(own, 4), _sequences(own, 3)
    copied = sum(s in asked for s in fours) / len(fours) if fours else 0.0
    repeated = 1 - len(set(threes)) / len(threes) if threes else 0.0
    said = [sentence.lower() for sentence in sentences(completion)]
    topic = topics().get(prompt.info.get("topic", ""))
    if topic is None:
        raise SawyerError(f"there is no topic {prompt.info.get('topic')!r}; was this prompt made by another version?")
    return {
        "substance": min(1.0, len(own) / ENOUGH_WORDS),
        "topic": 1.0 if topic.is_named_in(completion) else OFF_TOPIC,
        "originality": _falling(copied, FREE_COPY),
        "no_repetition": _falling(repeated, FREE_REPETITION) * (len(set(said)) / len(said) if said else 1.0),
        "ending": 1.0 if _ends_well(completion, constraints) else CUT_OFF,
    }


def _constraints(prompt: Prompt) -> list[Constraint]:
    constraints = prompt.info.get("constraints")
    if not constraints:
        raise SawyerError(
            f"the gold reward cannot judge the prompt {prompt.text[:60]!r}: it has no constraints in its `info`; "
            "use prompts of `source: verifiable`, or another reward"
        )
    return list(constraints)


def _ends_well(completion: str, constraints: Sequence[Constraint]) -> bool:
    text = completion.rstrip()
    if any(c["kind"] == "ends_with" and text.endswith(c["phrase"]) for c in constraints):
        return True
    last_line = text.rsplit("\n", 1)[-1]
    return (
        re.search(r"[.!][\"')\]”’]*$", text) is not None or re.match(r"\s*(\d+[.)]|[-*•])\s+\S", last_line) is not None
    )


def _sequences(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _falling(share: float, free: float) -> float:
    return min(1.0, max(0.0, 1 - (share - free) / STEEPNESS))
