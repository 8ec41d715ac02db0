"""From scores to probabilities and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.feedback.protocol import SURE, logit, sigmoid


@given(st.floats(-25, 25))
def test_a_probability_says_the_difference_it_came_from(difference):
    assert logit(sigmoid(difference)) == pytest.approx(difference, abs=1e-4)


@given(st.floats(0, 1))
def test_swapped_probabilities_say_opposite_differences(p):
    assert logit(p) == pytest.approx(-logit(1 - p), abs=1e-4) or min(p, 1 - p) < 1e-9


def test_a_probability_that_rounds_to_one_says_a_finite_difference():
    assert [logit(p) for p in (0.0, 1e-300, 1.0)] == [-SURE, -SURE, SURE]
    assert logit(0.5) == 0
