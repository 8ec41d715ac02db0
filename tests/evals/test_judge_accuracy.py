"""How well ratings order answers as people do."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from sawyer.errors import SawyerError
from sawyer.evals.judge_accuracy import judge_accuracy


def none_unread(ratings):
    return [[0.0] * len(own) for own in ratings]


def measure(ratings, unread=None):
    return judge_accuracy(ratings, unread or none_unread(ratings), draws=200)


def means(found):
    return {name: figure["mean"] for name, figure in found.items()}


def test_a_perfect_judge_and_its_opposite():
    right = [[5.0, 3.0, 1.0], [4.0, 2.0]]
    ones = {"pairwise": 1, "spearman": 1, "kendall": 1, "exact": 1}
    assert means(measure(right)) == pytest.approx({**ones, "ties": 0, "unread": 0})
    wrong = means(measure([own[::-1] for own in right]))
    assert wrong == pytest.approx({"pairwise": 0, "spearman": -1, "kendall": -1, "exact": 0, "ties": 0, "unread": 0})


def test_a_judge_that_says_the_same_of_all_is_chance():
    found = measure([[3.0] * 4] * 5)
    assert means(found) == {"pairwise": 0.5, "ties": 1, "spearman": 0, "kendall": 0, "exact": 0, "unread": 0}
    assert found["pairwise"]["n"] == 5


def test_figures_are_those_of_a_slow_reference():
    rng = np.random.default_rng(0)
    ratings = [rng.integers(0, 6, rng.integers(2, 6)).astype(float).tolist() for _ in range(40)]
    ratings = [own for own in ratings if len(set(own)) > 1]
    found = means(measure(ratings))
    pairs = [(a, b) for own in ratings for a, b in combinations(own, 2)]
    assert found["pairwise"] == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert found["ties"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    people = [list(range(len(own), 0, -1)) for own in ratings]
    both = list(zip(people, ratings, strict=True))
    assert found["spearman"] == pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in both]))
    assert found["kendall"] == pytest.approx(np.mean([kendalltau(a, b).statistic for a, b in both]))
    assert found["exact"] == pytest.approx(np.mean([own == sorted(set(own), reverse=True) for own in ratings]))
    for figure in measure(ratings).values():
        assert figure["low"] <= figure["mean"] <= figure["high"]


def test_an_answer_without_a_rating_is_a_draw_and_counted():
    nan = math.nan
    found = means(measure([[5.0, nan, 1.0], [nan, nan]], [[0.0, 1.0, 0.0], [1.0, 1.0]]))
    assert found["pairwise"] == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)
    assert found["spearman"] == pytest.approx((1 + 0) / 2)
    assert found["exact"] == 0
    assert found["unread"] == pytest.approx(3 / 5)


def test_nothing_to_compare():
    with pytest.raises(SawyerError, match="two answers or more"):
        measure([[1.0]])
