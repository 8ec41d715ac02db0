"""Worked arithmetic, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import Feedback
from sawyer.feedback.rules_math import ArithmeticSteps, distance, edit_distance, steps

ASKED = "Work out (1 + 2) * (3 + 4), please."
RIGHT = "= 3 * (3 + 4) = 3 * 7 = 21"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ASKED, ["3*(3+4)", "3*7", "21"]),
        ("((1+2)*(3+4))", ["(3*(3+4))", "(3*7)", "21"]),
        ("2 + 3 * 4", ["14"]),
        ("(2 - 5)", ["-3"]),
        ("4 - (2 - 5)", ["4--3", "7"]),
        ("(1 + 1) + (1 + 1)", ["2+(1+1)", "2+2", "4"]),
    ],
)
def test_brackets_are_worked_out_from_the_inside(text, expected):
    assert steps(text) == expected


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (RIGHT, 0),
        (f"(1 + 2) * (3 + 4) {RIGHT}", 0),  # what stands before the first `=` belongs to the question
        (f"{RIGHT} = 21 and so on = 99", 0),  # steps beyond the last
        ("= 3*(3+4) = 3*7 = 22", -1),
        ("= 3*(3+4) = 3*7", -2),  # a step that is missing costs its characters
        ("21", -(7 + 3 + 2)),
        ("", -(7 + 3 + 2)),
        ("= 21", -(7 + 3 + 2)),  # "21" and "3*(3+4)" have no character in common
    ],
)
def test_minus_the_edit_distances_of_the_steps(answer, reward):
    assert ArithmeticSteps().score([Prompt(ASKED)], [[answer]]) == [[reward]]


@pytest.mark.parametrize(
    ("a", "b", "d"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("ab", "ba", 2), ("x", "x", 0)]
)
def test_edit_distance(a, b, d):
    assert edit_distance(a, b) == d


def slow(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_edit_distance_equals_the_definition(a, b):
    assert edit_distance(a, b) == edit_distance(b, a) == slow(a, b)


@given(st.text())
def test_every_answer_has_a_reward(answer):
    assert distance(answer, ["3*7", "21"]) >= 0


@pytest.mark.parametrize("text", ["What is a river?", "What is 7?", "2 ** 3", "(1)(2)", "1 + ", "((1 + 2)", "007 + 1"])
def test_prompts_without_arithmetic_are_one_sentence(text):
    with pytest.raises(SawyerError, match="cannot judge the prompt"):
        ArithmeticSteps().score([Prompt(text)], [["x"]])


def test_it_is_feedback():
    assert isinstance(ArithmeticSteps(), Feedback)
