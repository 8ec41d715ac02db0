"""The question of a pairwise preference model, to the letter, and what its answer means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison, assistant, user
from sawyer.errors import SawyerError
from sawyer.feedback.pairwise_format import (
    both_orders,
    chosen_is_first,
    first_wins,
    letter_ids,
    pairwise_prompt,
    question_tree,
    structural_fault,
)

TALK = (user("Hi"), assistant("Hello."), user("What is a river?"))


def test_the_question_is_written_as_published():
    (turn,) = pairwise_prompt(TALK, "Water.", "Stone.")
    assert turn["role"] == "user"
    assert turn["content"] == (
        "[CONTEXT] \n\n\n<turn> user\n Hi\n\n<turn> assistant\n Hello.\n\n<turn> user\n What is a river?\n\n\n"
        " [RESPONSE A] Water. [RESPONSE B] Stone. \n"
    )


def test_the_question_ends_in_the_assistants_header_and_the_letter_follows(tiny_tokenizer):
    chat = ChatFormat(tiny_tokenizer)
    letters = letter_ids(chat)
    tree = question_tree(chat, TALK, "Water.", "Stone.", letters)
    assert tree.prompt == chat.prompt_ids(pairwise_prompt(TALK, "Water.", "Stone."))
    assert tiny_tokenizer.decode(tree.prompt).rstrip().endswith("assistant")
    assert [chat.decode(letter) for letter in tree.completions] == ["A", "B"]
    assert tree.scored_tokens == 2


def test_letters_of_several_tokens_are_refused(tiny_tokenizer):
    chat = ChatFormat(tiny_tokenizer, "plain")  # an answer begins with a space, and " A" is two tokens here
    assert len(chat.completion_ids("A")) == 3
    with pytest.raises(SawyerError, match="one token each"):
        letter_ids(chat)


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_the_letters_share_the_probability(a, b):
    assert first_wins(a, b) + first_wins(b, a) == pytest.approx(1)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_swap_of_both_answers_gives_one_minus_p(forth, back):
    assert both_orders(forth, back) + both_orders(back, forth) == pytest.approx(1)
    assert both_orders(forth, forth) == 0.5  # exactly: a model that sees the position alone


def test_where_the_chosen_answer_stands_is_a_fair_coin_of_record_and_seed():
    records = [Comparison((user(f"Question {i}"),), ("a", "b")) for i in range(400)]
    first = [chosen_is_first(record, 0) for record in records]
    assert 160 < sum(first) < 240
    assert first == [chosen_is_first(record, 0) for record in records]
    assert 160 < sum(a == b for a, b in zip(first, [chosen_is_first(r, 1) for r in records], strict=True)) < 240


@pytest.mark.parametrize(
    ("prompt", "completions", "fault"),
    [
        (TALK, ("a", "b"), None),
        ((user("Hi"), user("Are you there?")), ("a", "b"), "turns that do not alternate"),
        ((assistant("Hello."), user("Hi")), ("a", "b"), "turns that do not alternate"),
        (({"role": "system", "content": "Be brief."}, user("Hi")), ("a", "b"), "turns that do not alternate"),
        ((user("  "),), ("a", "b"), "an empty turn"),
        (TALK, ("a", "\n"), "an empty turn"),
    ],
)
def test_what_the_structural_filter_leaves_out(prompt, completions, fault):
    found = structural_fault(Comparison(prompt, completions))
    assert found is None if fault is None else found.startswith(fault)
