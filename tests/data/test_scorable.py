"""What a row holds to be scored, and which completions are read together."""

import pytest

from sawyer.data.records import Prompt
from sawyer.data.scorable import Scorable, by_prompt, converter
from sawyer.errors import SawyerError

A, B = Prompt("What is a river?"), Prompt("What is a town?")


def regrouped(groups, places):
    return [[groups[group][1][place] for group, place in own] for own in places]


def test_equal_prompts_are_read_once_and_every_row_finds_its_own():
    rows = [Scorable(A, ("a", "b")), Scorable(B, ("c",)), Scorable(A, ("b",))]
    groups, places = by_prompt(rows, 100)
    assert groups == [(A, ["a", "b", "b"]), (B, ["c"])]
    assert regrouped(groups, places) == [["a", "b"], ["c"], ["b"]]


def test_what_a_prompt_carries_keeps_it_apart():
    groups, _ = by_prompt([Scorable(A, ("a",)), Scorable(Prompt("What is a river?", {"topic": "x"}), ("a",))], 100)
    assert len(groups) == 2


@pytest.mark.parametrize("characters", [0, 1, 5, 7, 1000])
def test_completions_of_one_prompt_are_read_together_up_to_a_length(characters):
    rows = [Scorable(A, tuple("x" * k for k in range(1, 6))), Scorable(B, ("y",)), Scorable(A, ("z" * 9, ""))]
    groups, places = by_prompt(rows, characters)
    assert regrouped(groups, places) == [list(row.completions) for row in rows]
    for _, texts in groups:
        assert len(texts) == 1 or sum(map(len, texts)) <= characters


def test_a_conversation_is_scored_at_its_last_answer():
    turns = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"), ("assistant", "So.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = converter("messages")({"messages": messages, "info": {"n": 1}})
    assert found == Scorable(Prompt(tuple(messages[:-1]), {"n": 1}), ("So.",))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Why?"}, "no completion to score"),
        ({"prompt": "Why?", "samples": []}, "the row has no sample"),
        ({"prompt": "Why?", "samples": [{"text": 5}]}, "a sample has no `text`"),
        ({"prompt": "Why?", "completion": " "}, "the answer is empty"),
    ],
)
def test_a_row_with_nothing_to_score_says_why(row, reason):
    with pytest.raises(SawyerError, match=reason):
        converter("trl")(row)
