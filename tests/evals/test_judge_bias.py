"""Biases of judges of two completions, on judges that are known to have them."""

import numpy as np
import pytest

from sawyer.errors import SawyerError
from sawyer.evals import judge_bias

A, B, TIE, NO = 1.0, 0.0, 0.5, np.nan


def people(n=400, seed=0):
    return np.random.default_rng(seed).integers(0, 2, n).astype(float)


def test_labels_are_read_as_verdicts():
    found, unread = judge_bias.verdicts(["A", "b", "Tie", None, "both", "both"])
    assert np.array_equal(found, [A, B, TIE, NO, NO, NO], equal_nan=True)
    assert unread == {"both": 2}
    assert np.array_equal(judge_bias.verdicts([1.0, 9.0, 5.0, 4.0], tie=5)[0], [A, B, TIE, A])
    assert np.array_equal(judge_bias.verdicts([1.0, 2.0], tie=1.5)[0], [A, B])
    assert np.array_equal(judge_bias.verdicts([0.9, 0.1, 0.5], tie=0.5, prefers_a="high")[0], [A, B, TIE])
    found, unread = judge_bias.verdicts([1.0, 2.0])
    assert np.isnan(found).all()
    assert sum(unread.values()) == 2, "numbers are no verdicts until it is said which is a tie"
    with pytest.raises(SawyerError, match="low or high"):
        judge_bias.verdicts([1.0], 5, "left")


def test_ties_are_counted_among_the_verdicts():
    assert judge_bias.tie_rate(np.array([A, TIE, NO, B, TIE]))["mean"] == 0.5


def test_a_judge_who_always_takes_the_first_is_seen():
    always = np.ones(40)
    found = judge_bias.position(always, always)
    assert found["consistent"]["mean"] == 0
    assert found["first"]["mean"] == 1
    assert found["first"]["p_value"] < 0.001
    assert found["verdicts"] == {"a": 0, "b": 0, "first": 40, "second": 0, "tie": 0, "once": 0}


def test_a_judge_who_does_not_look_at_the_order_has_no_bias():
    verdict = people()
    found = judge_bias.position(verdict, 1 - verdict)
    assert found["consistent"]["mean"] == 1
    assert (found["first"]["mean"], found["first"]["p_value"]) == (0, 1)
    assert found["verdicts"]["a"] == verdict.sum()


def test_the_swap_test_counts_ties_and_leaves_out_what_was_judged_once():
    verdict = np.array([A, B, TIE, TIE, A, NO])
    swapped = np.array([A, B, TIE, A, NO, A])
    found = judge_bias.position(verdict, swapped)
    assert found["items"] == 4
    assert found["verdicts"] == {"a": 0, "b": 0, "first": 1, "second": 1, "tie": 1, "once": 1}
    assert found["consistent"]["mean"] == 0.25
    assert found["first"]["mean"] == pytest.approx((1 - 1 + 0 + 0.5) / 4)
    assert judge_bias.position(np.array([NO]), np.array([A])) is None


def test_a_random_judge_shows_a_bias_as_rarely_as_the_test_says():
    rng = np.random.default_rng(4)
    p = []
    for seed in range(200):
        verdict, swapped = rng.integers(0, 2, (2, 60)).astype(float)
        p.append(judge_bias.position(verdict, swapped, draws=400, seed=seed)["first"]["p_value"])
    assert np.mean(np.array(p) < 0.05) < 0.1


def test_a_judge_of_length_is_told_from_people_who_like_length_with_reason():
    rng = np.random.default_rng(1)
    side = rng.choice([-1.0, 1.0], 600)
    length = (side > 0).astype(float)
    right = np.where(rng.random(600) < 0.6, length, 1 - length)  # the longer is the better one in 60 %
    judge = np.where(rng.random(600) < 0.5, length, right)  # and every other time all that the judge sees
    assert judge_bias.preference(length, side)["mean"] == 1
    assert judge_bias.preference(right, side)["mean"] == pytest.approx(0.6, abs=0.06)
    found = judge_bias.preference_against(judge, right, side)
    assert found["more"]["mean"] == pytest.approx(0.2, abs=0.05)
    assert found["more"]["p_value"] < 0.01
    assert found["opportunity"]["mean"] == pytest.approx(0.5, abs=0.08), "always right on the longer, half on the other"
    assert found["opportunity"]["low"] < 0.5 < found["opportunity"]["high"]
    fair = judge_bias.preference_against(right, right, side)
    assert (fair["more"]["mean"], fair["opportunity"]["mean"]) == (0, 0)


def test_prompts_are_the_units():
    side, verdict = np.ones(40), np.repeat([A, B], 20)
    alone = judge_bias.preference(verdict, side)
    together = judge_bias.preference(verdict, side, np.repeat(np.arange(4), 10).tolist())
    assert together["n"] == 4
    assert together["high"] - together["low"] > alone["high"] - alone["low"]


def test_items_without_a_side_do_not_count():
    side = judge_bias.longer([3, 5, 5, NO], [4, 4, 5, 1])
    assert np.array_equal(side, [-1, 1, 0, NO], equal_nan=True)
    assert judge_bias.preference(np.array([A, A, A, A]), side)["mean"] == 0.5
    assert judge_bias.preference(np.array([A]), np.array([0.0])) is None
    assert judge_bias.preference_against(np.array([A]), np.array([NO]), np.array([1.0])) is None
    one_sided = judge_bias.preference_against(np.array([A, B]), np.array([A, A]), np.array([1.0, 1.0]))
    assert one_sided["opportunity"] is None, "the other never prefers the opposite"


def test_a_judge_that_prefers_its_own_is_seen():
    a, b = ["judge", "other", "judge", None, "x"], ["other", "judge", "judge", "judge", "y"]
    side = judge_bias.own("judge", a, b)
    assert side.tolist() == [1, -1, 0, 0, 0]
    assert judge_bias.preference(np.array([A, B, A, A, A]), side)["mean"] == 1
