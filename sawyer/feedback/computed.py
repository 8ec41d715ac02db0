"""Rewards that are computed and not learned, by name: gold where the truth needs no model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from sawyer.feedback.protocol import Feedback

Computed = Literal[
    "verifiable", "arithmetic", "length", "nouns", "unique_nouns", "nouns_for_tokens", "token_density", "reading_grade",
    "bag_of_words",
]  # fmt: skip


def computed_reward(name: Computed, words: Collection[str] = ()) -> Feedback:
    """The reward of that name; `bag_of_words` is that of these words.

    Raises:
        SawyerError: there is no such reward; a bag of words without words, or words for another; what counts nouns is
            not installed.
    """
    from sawyer.feedback.rules import VerifiableReward
    from sawyer.feedback.rules_math import ArithmeticSteps
    from sawyer.feedback.rules_text import text_rule

    if name in ("verifiable", "arithmetic") and not words:
        return VerifiableReward() if name == "verifiable" else ArithmeticSteps()
    rule = text_rule(name, words)
    if "nouns" in name:
        rule.rule("")  # finds the tagger, now and not when the first text is there
    return rule
