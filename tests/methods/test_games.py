"""Win rates of the completions of one prompt."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.methods.games import from_rewards, with_itself

finite = st.lists(st.floats(-20, 20, allow_nan=False), min_size=2, max_size=8)


def test_two_rewards_one_apart():
    p = 1 / (1 + math.exp(-1))
    assert from_rewards([1.0, 0.0]) == pytest.approx([(0.5 + p) / 2, (0.5 + 1 - p) / 2])


@given(finite)
def test_win_rates_average_a_half_and_follow_the_rewards(rewards):
    rates = from_rewards(rewards)
    assert sum(rates) / len(rates) == pytest.approx(0.5)
    assert all(0 < rate < 1 for rate in rates)
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    assert all(rates[a] <= rates[b] + 1e-12 for a, b in pairwise(order))


@given(finite)
def test_both_ways_agree(rewards):
    """A pairwise model that is Bradley-Terry's scores by the others alone."""
    n = len(rewards)
    others = [(rate * n - 0.5) / (n - 1) for rate in from_rewards(rewards)]
    assert with_itself(others) == pytest.approx(from_rewards(rewards))
