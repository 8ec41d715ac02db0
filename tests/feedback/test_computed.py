"""Computed rewards by name."""

import sys
from typing import get_args

import pytest

from sawyer.data.records import Prompt
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.feedback import rules_text
from sawyer.feedback.computed import Computed, computed_reward
from sawyer.feedback.protocol import Feedback

PROMPTS = {"verifiable": make_prompts(1, "train")[0], "arithmetic": Prompt("1 + 2")}


@pytest.mark.parametrize("name", get_args(Computed))
def test_every_name_is_a_feedback_that_scores(name):
    if "nouns" in name:
        pytest.importorskip("textblob")
    reward = computed_reward(name, ["river"] if name == "bag_of_words" else ())
    assert isinstance(reward, Feedback)
    ((score,),) = reward.score([PROMPTS.get(name, Prompt("a"))], [["The river runs."]])
    assert isinstance(score, float)


def test_every_rule_of_the_text_has_its_name():
    assert {*rules_text.RULES, "bag_of_words", "verifiable", "arithmetic"} == set(get_args(Computed))


@pytest.mark.parametrize("arguments", [("bag_of_words",), ("nouns", ["a"]), ("verifiable", ["a"]), ("noun",)])
def test_what_does_not_fit_is_one_sentence(arguments):
    with pytest.raises(SawyerError, match="rule"):
        computed_reward(*arguments)


def test_a_tagger_that_is_missing_is_missed_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    monkeypatch.setattr(rules_text, "_tagger", rules_text._tagger.__wrapped__)
    with pytest.raises(SawyerError, match="need TextBlob"):
        computed_reward("unique_nouns")
