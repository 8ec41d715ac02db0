"""The verifiable instructions: possible, varied, reproducible, and with nothing in common between splits."""

import json
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.data.constraints import (
    KINDS,
    SPLITS,
    contains_word,
    paragraphs,
    satisfaction,
    sentences,
    values,
    word_split,
    words,
)
from sawyer.data.topics import topics
from sawyer.data.verifiable import demonstrations, make_prompts, topics_of
from sawyer.errors import SawyerError

N = 300


def listed(split):
    """All constraints of a split that do not depend on a topic's words."""
    return [c for kind in KINDS if kind not in ("keyword", "forbidden") for c in values(kind, split)]


def test_there_are_many_topics_and_each_can_be_answered():
    assert len(topics()) >= 120
    for topic in topics().values():
        assert 4 <= len(topic.facts) <= 6
        assert topic.is_named_in(topic.facts[0])
        assert topic.question.endswith("?")
        assert all(6 <= len(words(fact)) <= 14 and fact.endswith(".") for fact in topic.facts)
    facts = [fact for topic in topics().values() for fact in topic.facts]
    assert len(set(facts)) == len(facts)


@pytest.mark.parametrize(("a", "b"), list(combinations(SPLITS, 2)))
def test_splits_share_neither_topic_nor_constraint(a, b):
    assert not set(topics_of(a)) & set(topics_of(b))

    def instances(split):
        asked = [c for prompt in make_prompts(N, split) for c in prompt.info["constraints"]]
        return {json.dumps(c, sort_keys=True) for c in [*asked, *listed(split)]}

    assert not instances(a) & instances(b)

    def asked_words(split):
        return {c["word"] for p in make_prompts(N, split) for c in p.info["constraints"] if "word" in c}

    assert not asked_words(a) & asked_words(b)
    assert {word_split(word) for word in asked_words(a)} == {a}


def test_every_topic_is_in_a_split_and_train_has_the_most():
    sizes = {split: len(topics_of(split)) for split in SPLITS}
    assert sum(sizes.values()) == len(topics())
    assert sizes["train"] > sizes["test"] > sizes["validation"] > 0


@pytest.mark.parametrize("split", SPLITS)
def test_demonstrations_meet_every_constraint_of_their_prompt(split):
    prompts, shown = make_prompts(N, split), demonstrations(N, split)
    for prompt, demonstration in zip(prompts, shown, strict=True):
        assert demonstration.prompt == prompt.prompt
        assert demonstration.info == prompt.info
        answer = demonstration.messages[-1]["content"]
        assert [satisfaction(c, answer) for c in prompt.info["constraints"]] == [1.0] * len(prompt.info["constraints"])


def test_a_prompt_states_its_topic_and_its_constraints():
    for prompt in make_prompts(N, "train"):
        assert topics()[prompt.info["topic"]].question in prompt.text
        assert prompt.info["source"] == "verifiable"
        assert 1 <= len(prompt.info["constraints"]) <= 3
        groups = [KINDS[c["kind"]].group for c in prompt.info["constraints"]]
        assert len(set(groups)) == len(groups)
        for constraint in prompt.info["constraints"]:
            stated = [str(v) for k, v in constraint.items() if k not in ("kind", "lines")]
            assert all(value in prompt.text for value in stated)
        assert json.loads(json.dumps(prompt.info)) == prompt.info


def test_train_uses_every_kind_and_few_prompts_come_twice():
    prompts = make_prompts(N, "train")
    assert {c["kind"] for p in prompts for c in p.info["constraints"]} == set(KINDS)
    assert len({p.text for p in prompts}) >= 0.98 * N
    assert len({p.info["topic"] for p in prompts}) == len(topics_of("train"))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 30), more=st.integers(0, 30), seed=st.integers(0, 2**31), split=st.sampled_from(SPLITS))
def test_a_prompt_depends_on_seed_and_index_alone(n, more, seed, split):
    assert make_prompts(n, split, seed) == make_prompts(n + more, split, seed)[:n]


def test_another_seed_gives_other_prompts():
    assert {p.text for p in make_prompts(50, "train", 0)} != {p.text for p in make_prompts(50, "train", 1)}


def test_an_unknown_split_is_refused():
    with pytest.raises(SawyerError, match="no split 'dev'"):
        make_prompts(1, "dev")
    with pytest.raises(SawyerError, match="must not be negative"):
        make_prompts(-1, "train")


# --- the constraints by hand ----------------------------------------------------------------------------------------

TEN = "One two three four five. Six seven eight nine ten."
LIST = "1. First thing.\n2. Second thing.\n3. Third thing."


@pytest.mark.parametrize(
    ("constraint", "text", "expected"),
    [
        ({"kind": "max_words", "n": 10}, TEN, 1),
        ({"kind": "max_words", "n": 8}, TEN, 0.75),
        ({"kind": "max_words", "n": 5}, TEN, 0),
        ({"kind": "max_words", "n": 5}, "", 0),
        ({"kind": "min_words", "n": 10}, TEN, 1),
        ({"kind": "min_words", "n": 20}, TEN, 0.5),
        ({"kind": "word_range", "low": 8, "high": 12}, TEN, 1),
        ({"kind": "word_range", "low": 20, "high": 30}, TEN, 0.5),
        ({"kind": "word_range", "low": 4, "high": 8}, TEN, 0.75),
        ({"kind": "keyword", "word": "light"}, "Light is fast.", 1),
        ({"kind": "keyword", "word": "light"}, "Lightning is fast.", 0),
        ({"kind": "forbidden", "word": "light"}, "Lightning is fast.", 1),
        ({"kind": "forbidden", "word": "light"}, "Some light.", 0),
        ({"kind": "forbidden", "word": "light"}, " ", 0),
        ({"kind": "numbered_list", "k": 3}, LIST, 1),
        ({"kind": "numbered_list", "k": 3}, "Here:\n" + LIST, 1),
        ({"kind": "numbered_list", "k": 2}, LIST, 0.5),
        ({"kind": "numbered_list", "k": 3}, LIST + "\nMore.\nAnd more.\nAnd more.", 0.5),
        ({"kind": "numbered_list", "k": 3}, LIST.replace("2.", "7."), 0.5),
        ({"kind": "numbered_list", "k": 3}, TEN, 0),
        ({"kind": "bullet_list", "k": 2}, "- a thing\n* another", 1),
        ({"kind": "bullet_list", "k": 2}, LIST, 0),
        ({"kind": "paragraphs", "k": 2}, "One.\n\nTwo.", 1),
        ({"kind": "paragraphs", "k": 2}, "One.\nTwo.", 0.5),
        ({"kind": "one_paragraph", "lines": 1}, TEN, 1),
        ({"kind": "one_paragraph", "lines": 1}, LIST, 0),
        ({"kind": "sentences", "k": 2}, TEN, 1),
        ({"kind": "sentences", "k": 4}, TEN, 0.5),
        ({"kind": "case", "case": "lower"}, TEN.lower(), 1),
        ({"kind": "case", "case": "lower"}, "One two. three four.", 0.5),
        ({"kind": "case", "case": "upper"}, TEN.upper(), 1),
        ({"kind": "starts_with", "phrase": "In short,"}, "In short, yes.", 1),
        ({"kind": "starts_with", "phrase": "In short,"}, "In short: yes.", 0.5),
        ({"kind": "starts_with", "phrase": "In short,"}, "Yes, in short.", 0),
        ({"kind": "ends_with", "phrase": "That is all."}, "Yes. That is all.\n", 1),
        ({"kind": "ends_with", "phrase": "That is all."}, "Yes. That is all", 0.5),
        ({"kind": "ends_with", "phrase": "That is all."}, "That is all. Yes.", 0),
    ],
)
def test_satisfaction_by_hand(constraint, text, expected):
    assert satisfaction(constraint, text) == pytest.approx(expected)


@pytest.mark.parametrize("constraint", [{"kind": "rhyme"}, {"kind": "max_words"}, {"kind": "max_words", "k": 1}, {}])
def test_a_constraint_that_cannot_be_checked_is_refused(constraint):
    with pytest.raises(SawyerError, match="not a constraint that can be checked"):
        satisfaction(constraint, "text")


@given(
    st.text(max_size=200), st.sampled_from([*listed("train"), *listed("test"), {"kind": "keyword", "word": "light"}])
)
def test_satisfaction_of_any_text_is_a_share(text, constraint):
    assert 0 <= satisfaction(constraint, text) <= 1


def test_words_sentences_and_paragraphs_are_counted_as_people_count_them():
    assert words("1. It's well-known - really!\n- Yes.") == ["It's", "well-known", "really", "Yes"]
    assert sentences('He said "no." Then 3.5 went. What?! End') == ['He said "no.', "Then 3.5 went.", "What?!", "End"]
    assert sentences("- one thing\n- another thing") == ["one thing", "another thing"]
    assert paragraphs("a\nb\n \nc\n\n\n") == ["a\nb", "c"]
    assert contains_word("The ICE-cold lake", "ice")
