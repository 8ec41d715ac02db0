"""What critics and revisers are asked, by which principle, and what is read of their answers."""

from collections import Counter

import pytest

from sawyer.data.records import Prompt, assistant, user
from sawyer.feedback.principles import Principle
from sawyer.methods.critique import (
    Constitution,
    Example,
    cleaned,
    critique_prompt,
    critique_request,
    principles_of,
    revision_prompt,
    revision_request,
)

KIND, TRUE = Principle("Be kind.", 3.0, "kind"), Principle("Be true.", 1.0, "true")
GOOD = Principle("Be good.")
EXAMPLE = Example("Ask?", "Bad.", "Be good.", "It is bad.", "Good.")
PROMPT = Prompt(({"role": "system", "content": "S"}, user("One?"), assistant("Two."), user("Three?")))


def test_principles_are_drawn_by_weight_the_same_for_the_same_prompt():
    constitution = Constitution((KIND, TRUE))
    first = Counter(principles_of(constitution, 1, 0, prompt)[0].name for prompt in range(4000))
    assert first["kind"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert principles_of(constitution, 3, 0, "a", 1) == principles_of(constitution, 3, 0, "a", 1)


def test_no_principle_comes_twice_before_all_have_come():
    constitution = Constitution((KIND, TRUE))
    for prompt in range(20):
        names = [principle.name for principle in principles_of(constitution, 4, prompt)]
        assert sorted(names[:2]) == sorted(names[2:]) == ["kind", "true"]


def test_a_critique_is_asked_after_the_system_turn_examples_and_the_answer():
    asked = critique_prompt(PROMPT, "Four.", KIND, [EXAMPLE])
    assert asked.prompt[0]["content"] == "S"
    assert [turn["content"] for turn in asked.prompt[1:7]] == [
        "Ask?", "Bad.", critique_request(GOOD), "It is bad.", revision_request(GOOD), "Good.",
    ]  # fmt: skip
    assert [turn["content"] for turn in asked.prompt[7:]] == [
        "One?", "Two.", "Three?", "Four.", critique_request(KIND),
    ]  # fmt: skip


def test_a_revision_is_asked_after_the_critique_or_by_the_principle_alone():
    after = revision_prompt(PROMPT, "Four.", KIND, "It is rude.")
    assert [turn["content"] for turn in after.prompt[-3:]] == [
        critique_request(KIND), "It is rude.", revision_request(KIND),
    ]  # fmt: skip
    without = revision_prompt(PROMPT, "Four.", KIND, None, [EXAMPLE])
    contents = [turn["content"] for turn in without.prompt]
    assert contents[-2:] == ["Four.", revision_request(KIND, False)]
    assert contents[1:5] == ["Ask?", "Bad.", revision_request(GOOD, False), "Good."]
    assert not any("light of this principle" in text for text in contents)


def test_step_by_step_is_asked_for_where_it_is_wanted():
    assert "step by step" in critique_prompt(PROMPT, "Four.", KIND, step_by_step=True).text
    assert "step by step" not in critique_prompt(PROMPT, "Four.", KIND).text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Here is a revised answer:\n\nI would rather not.", "I would rather not."),
        ("Revised answer: I would rather not.", "I would rather not."),
        ('"I would rather not."', "I would rather not."),
        ('"Yes" is no answer, and "no" is.', '"Yes" is no answer, and "no" is.'),
        ("Three things:\n1. a\n2. b", "Three things:\n1. a\n2. b"),
        ("  \n", ""),
    ],
)
def test_a_revision_is_freed_from_what_announces_it(said, text):
    assert cleaned(said) == text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("I would rather not. It is his, and if you", "I would rather not."),
        ('He said "no!" and then', 'He said "no!"'),
        ("Version 2.5 is out. It ends.", "Version 2.5 is out. It ends."),
        ("and so on and", ""),
    ],
)
def test_a_text_that_was_cut_ends_with_its_last_whole_sentence(said, text):
    assert cleaned(said, cut=True) == text
    assert cleaned(said) == said


def test_a_principle_can_bring_its_own_requests():
    own = Principle("Be kind.", critique="What was rude?", revision="Say it kindly.")
    assert critique_request(own) == "What was rude?"
    assert "step by step" in critique_request(own, step_by_step=True)
    assert revision_request(own) == revision_request(own, False) == "Say it kindly. Answer with the new text alone."
