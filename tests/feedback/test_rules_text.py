"""Rules of the text, by hand."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback import rules_text
from sawyer.feedback.protocol import Feedback, prefer
from sawyer.feedback.rules_text import (
    RULES,
    bag_of_words,
    flesch_kincaid,
    length,
    nouns,
    nouns_for_tokens,
    reading_grade,
    syllables,
    text_rule,
    token_density,
    tokens,
    unique_nouns,
    words,
)

CAT = "The cat sat on the mat."
TEN = "one two three four five six seven eight nine ten"


def test_tokens_are_words_and_marks():
    assert tokens("It's a well-known day, isn't it?") == ["It's", "a", "well-known", "day", ",", "isn't", "it", "?"]
    assert words("Wait... 3 cats!") == ["Wait", "3", "cats"]
    assert length("Wait... 3 cats!") == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [(CAT, 2), ("A cat, a CAT and a catalogue", 1), ("", 0), ("mat-cat", 0)],
)
def test_a_bag_counts_each_word_once(text, value):
    assert bag_of_words(text, ["cat", "Mat", "dog"]) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"{TEN} {TEN}", -5),  # 20 tokens
        (f"{TEN} {TEN}.", 10 * 11 / 21),
        (f"{TEN} a b c d e f g h i j k", 10),
        ("", -5),
    ],
)
def test_density_is_the_share_of_different_tokens(text, value):
    assert token_density(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("cat", 1), ("the", 1), ("make", 1), ("table", 2), ("river", 2), ("beautiful", 3), ("played", 1), ("wanted", 2),
        ("apples", 2), ("communication", 5), ("makes", 1), ("whole", 1),
        ("houses", 2), ("hmm", 1), ("see", 1), ("3", 1),
    ],
)  # fmt: skip
def test_syllables(word, count):
    assert syllables(word) == count


def test_the_grade_is_kincaids():
    assert flesch_kincaid(CAT) == pytest.approx(0.39 * 6 + 11.8 * 6 / 6 - 15.59)  # -1.45
    two = "The river runs. It makes communication beautiful."  # 7 words, 2 sentences, 1+2+1+1+1+5+3 syllables
    assert flesch_kincaid(two) == pytest.approx(0.39 * 7 / 2 + 11.8 * 14 / 7 - 15.59)
    assert flesch_kincaid("...") == 0


def test_nouns_are_counted():
    pytest.importorskip("textblob")
    assert nouns(CAT) == 2
    assert nouns("Rivers run quickly to the sea near Paris.") == 3
    assert nouns("It's John's well-known day, isn't it? ☃ 30 cats / they’ll say.") == 3  # John, day, cats
    assert nouns("") == nouns("...") == 0
    assert nouns_for_tokens(CAT) == 3 * 2 + 50 - 7


def test_each_noun_counts_once():
    pytest.importorskip("textblob")
    assert nouns("The cat saw a Cat on the mat.") == 3
    assert unique_nouns("The cat saw a Cat on the mat.") == 2
    assert unique_nouns("") == 0


def test_nouns_without_a_tagger_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    monkeypatch.setattr(rules_text, "_tagger", rules_text._tagger.__wrapped__)
    with pytest.raises(SawyerError, match="need TextBlob"):
        nouns(CAT)


def test_short_texts_have_no_grade():
    assert reading_grade(CAT) == -10
    assert reading_grade(" ".join([CAT] * 3)) == pytest.approx(flesch_kincaid(CAT))


@given(st.text())
def test_every_rule_gives_every_text_a_number(text):
    pytest.importorskip("textblob")
    for rule in RULES.values():
        assert isinstance(rule(text), float)


def test_rules_are_feedback():
    rule = text_rule("length")
    assert isinstance(rule, Feedback)
    prompts = [Prompt("a"), Prompt("b")]
    assert rule.score(prompts, [["one two", ""], ["three"]]) == [[2, 0], [1]]
    forth, back = prefer(rule, prompts[:1], [("one two", "one")]), prefer(rule, prompts[:1], [("one", "one two")])
    assert forth[0] + back[0] == pytest.approx(1)
    assert text_rule("bag_of_words", ["two"]).score(prompts[:1], [["one two", "one"]]) == [[1, 0]]


@pytest.mark.parametrize("arguments", [("lenght",), ("bag_of_words",), ("length", ["a"])])
def test_a_rule_that_is_none_is_one_sentence(arguments):
    with pytest.raises(SawyerError, match="rule"):
        text_rule(*arguments)
