"""From scores to probabilities and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.feedback.protocol import SURE, logit, sigmoid, win_rates


@given(st.floats(-25, 25))
def test_a_probability_says_the_difference_it_came_from(difference):
    assert logit(sigmoid(difference)) == pytest.approx(difference, abs=1e-4)


@given(st.floats(0, 1))
def test_swapped_probabilities_say_opposite_differences(p):
    assert logit(p) == pytest.approx(-logit(1 - p), abs=1e-4) or min(p, 1 - p) < 1e-9


def test_a_probability_that_rounds_to_one_says_a_finite_difference():
    assert [logit(p) for p in (0.0, 1e-300, 1.0)] == [-SURE, -SURE, SURE]
    assert logit(0.5) == 0


class Lengths:
    """Scores a text by its length."""

    name = "lengths"

    def score(self, prompts, completions):
        return [[float(len(text)) for text in own] for own in completions]


class Alphabet(Lengths):
    """Prefers what comes first in the alphabet, and says how often it was asked."""

    asked = 0

    def prefer(self, prompts, pairs):
        self.asked += len(pairs)
        return [0.9 if a < b else 0.1 for a, b in pairs]


def test_games_won_are_the_sources_own_preferences():
    source = Alphabet()
    rates = win_rates(source, ["p", "q"], [["b", "a", "c"], ["alone"]])
    assert rates == [[pytest.approx(0.5), pytest.approx(0.9), pytest.approx(0.1)], [0.5]]
    assert source.asked == 3


def test_games_between_scores_are_bradley_terrys():
    (rates,) = win_rates(Lengths(), ["p"], [["a", "bb"]])
    assert rates == pytest.approx([sigmoid(-1.0), sigmoid(1.0)])
