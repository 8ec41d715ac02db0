import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.errors import SawyerError
from sawyer.evals import reward_models

margins = st.lists(st.floats(-8, 8, allow_nan=False), min_size=1, max_size=60)


def calibrated(n, scale=1.0, seed=0):
    """Margins of a model whose sigmoid(margin) is true, multiplied by `scale`."""
    rng = np.random.default_rng(seed)
    confidence = rng.normal(0, 2, n)
    right = rng.random(n) < 1 / (1 + np.exp(-confidence))
    return scale * np.where(right, confidence, -confidence)


def slow_ece(values, bins):
    total = 0.0
    for b in range(bins):
        low, high = 0.5 + b * 0.5 / bins, 0.5 + (b + 1) * 0.5 / bins
        inside = []
        for m in values:
            confidence = 1 / (1 + math.exp(-abs(m)))
            if low <= confidence < high or (b == bins - 1 and confidence >= high):
                inside.append((confidence, 1.0 if m > 0 else 0.5 if m == 0 else 0.0))
        if inside:
            total += len(inside) / len(values) * abs(np.mean([r for _, r in inside]) - np.mean([c for c, _ in inside]))
    return total


@given(margins, st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_ece_equals_a_plain_loop_over_bins(values, bins):
    # a confidence within rounding of an edge may fall on either side of it
    distance = [abs((1 / (1 + math.exp(-abs(m))) - 0.5) * 2 * bins % 1) for m in values]
    if all(1e-9 < d < 1 - 1e-9 for d in distance):
        assert reward_models.expected_calibration_error(values, bins) == pytest.approx(slow_ece(values, bins))


def test_empty_bins_keep_their_place_and_weigh_nothing():
    diagram = reward_models.reliability([3.0, 3.0, -3.0, 0.1], bins=10)
    assert [bin["n"] for bin in diagram] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert diagram[4]["accuracy"] is None
    assert diagram[9]["accuracy"] == pytest.approx(2 / 3)
    weighted = sum(b["n"] / 4 * abs(b["accuracy"] - b["confidence"]) for b in diagram if b["n"])
    assert reward_models.expected_calibration_error([3.0, 3.0, -3.0, 0.1]) == pytest.approx(weighted)


def test_certain_and_wrong_falls_in_the_last_bin():
    assert reward_models.reliability([-1e4], bins=5)[4]["n"] == 1
    assert reward_models.expected_calibration_error([-1e4]) == pytest.approx(1)


def test_temperature_undoes_overconfidence():
    evaluation = reward_models.evaluate(calibrated(4000, scale=3.0))
    calibration = evaluation["calibration"]
    assert calibration["temperature"] == pytest.approx(3, rel=0.1)
    assert calibration["ece_after"]["mean"] < 0.03 < calibration["ece_before"]["mean"]
    assert calibration["ece_after"]["n"] + calibration["fitted_on"] == 4000
    assert calibration["ece_after"]["high"] < calibration["ece_before"]["low"]


def test_a_temperature_of_other_pairs_is_measured_on_all():
    values, other = calibrated(1000, scale=3.0), calibrated(2000, scale=3.0, seed=1)
    calibration = reward_models.evaluate(values, fitting=other)["calibration"]
    assert calibration["temperature"] == reward_models.fit_temperature(other)
    assert (calibration["fitted_on"], calibration["measured_on"]) == (2000, 1000)
    assert calibration["ece_before"] == calibration["ece"]
    after = values / calibration["temperature"]
    assert calibration["ece_after"]["mean"] == pytest.approx(slow_ece(after, 10))
    assert calibration["log_loss_after"]["mean"] == pytest.approx(np.logaddexp(0, -after).mean())
    assert calibration["brier_after"]["mean"] == pytest.approx(np.mean((1 / (1 + np.exp(after))) ** 2))
    assert calibration["adaptive_ece_after"]["mean"] == pytest.approx(slow_adaptive_ece(after, 10))
    assert sum(bin["n"] for bin in calibration["reliability_after"]) == 1000
    assert "temperature" in reward_models.evaluate(values[:1], fitting=other)["calibration"]


def test_temperature_minimises_log_loss():
    values = calibrated(300, scale=0.4, seed=3)
    best = reward_models.fit_temperature(values)
    loss = lambda t: np.logaddexp(0, -values / t).mean()
    assert all(loss(best) <= loss(best * factor) for factor in (0.5, 0.95, 1.05, 2))


def test_a_perfect_model_gets_a_temperature_within_bounds():
    low, high = reward_models.TEMPERATURES
    assert reward_models.fit_temperature([1.0, 2.0]) == pytest.approx(low, rel=0.01)
    assert reward_models.fit_temperature([-1.0, -2.0]) == pytest.approx(high, rel=0.01)


def test_ties_are_wrong_in_accuracy_and_half_right_beside_it():
    evaluation = reward_models.evaluate([1.0, 1.0, 0.0, -1.0])
    assert evaluation["accuracy"]["mean"] == 0.5
    assert evaluation["accuracy_ties_half"]["mean"] == 0.625
    assert evaluation["ties"] == 1


def test_proper_scores_follow_their_definitions():
    evaluation = reward_models.evaluate([0.0, math.log(3)])
    assert evaluation["log_loss"]["mean"] == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert evaluation["brier"]["mean"] == pytest.approx((0.25 + 0.0625) / 2)


def test_a_model_that_only_counts_words_is_seen_through():
    rng = np.random.default_rng(5)
    chosen, rejected = rng.integers(10, 50, 400), rng.integers(5, 45, 400)
    evaluation = reward_models.evaluate((chosen - rejected) / 10, chosen.tolist(), rejected.tolist())
    assert evaluation["longer_wins"]["mean"] == evaluation["accuracy_ties_half"]["mean"]
    by_length = evaluation["accuracy_by_length"]
    assert (by_length["chosen_longer"]["mean"], by_length["chosen_shorter"]["mean"]) == (1, 0)


def test_pairs_of_a_prompt_are_split_together():
    prompts = [i // 2 for i in range(40)]
    evaluation = reward_models.evaluate(calibrated(40), prompts=prompts)
    assert evaluation["accuracy"]["n"] == 20
    assert evaluation["calibration"]["fitted_on"] == 20
    assert evaluation["calibration"]["ece_after"]["n"] == 10


def test_interval_of_calibration_error_allows_for_its_bias():
    low = [reward_models.evaluate(calibrated(300, seed=i), draws=300)["calibration"]["ece"]["low"] for i in range(60)]
    assert np.mean(low) < 0.01  # the truth is 0


@given(margins)
@settings(max_examples=40, deadline=None)
def test_every_figure_survives_json_with_its_interval_around_it(values):
    evaluation = json.loads(json.dumps(reward_models.evaluate(values, draws=50), allow_nan=False))
    for figure in (
        evaluation["accuracy"],
        evaluation["log_loss"],
        evaluation["brier"],
        evaluation["calibration"]["ece"],
    ):
        assert figure["n"] == len(values)
        assert figure["low"] is None or figure["low"] - 1e-9 <= figure["mean"] <= figure["high"] + 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda: reward_models.evaluate([]),
        lambda: reward_models.evaluate([1.0, math.nan]),
        lambda: reward_models.evaluate([1.0], [3], [2, 3]),
        lambda: reward_models.evaluate([1.0], prompts=[]),
        lambda: reward_models.evaluate([1.0], bins=0),
        lambda: reward_models.evaluate([1.0], fitting=[]),
        lambda: reward_models.evaluate([1.0], fitting=[math.inf]),
    ],
)
def test_a_mistake_is_one_sentence(call):
    with pytest.raises(SawyerError) as error:
        call()
    assert "\n" not in str(error.value)


def slow_adaptive_ece(values, bins):
    """Bins of equally many pairs, for margins that all differ."""
    confidences = sorted((1 / (1 + math.exp(-abs(m))), 1.0 if m > 0 else 0.0) for m in values)
    edges = [math.ceil(k * len(values) / bins) for k in range(bins + 1)]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = confidences[low:high]
        total += abs(sum(right for _, right in inside) - sum(confidence for confidence, _ in inside))
    return total / len(values)


@given(st.sets(st.integers(1, 400), min_size=6, max_size=40), st.integers(1, 6), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_adaptive_ece_equals_a_plain_loop(sizes, bins, seed):
    signs = np.random.default_rng(seed).choice([-1, 1], len(sizes))
    values = [sign * size / 50 for sign, size in zip(signs, sorted(sizes), strict=True)]
    assert reward_models.adaptive_calibration_error(values, bins) == pytest.approx(slow_adaptive_ece(values, bins))


def test_equal_margins_share_a_bin_so_that_order_cannot_matter():
    values = [2.0] * 6 + [-2.0] * 4
    there, back = (reward_models.adaptive_calibration_error(order, 5) for order in (values, values[::-1]))
    assert there == pytest.approx(back)
    assert there == pytest.approx(reward_models.expected_calibration_error(values, 5))


def test_both_calibration_errors_are_reported_with_intervals():
    calibration = reward_models.evaluate(calibrated(400, scale=3.0))["calibration"]
    adaptive = calibration["adaptive_ece"]
    assert adaptive["low"] <= adaptive["mean"] <= adaptive["high"]
    assert adaptive["mean"] == pytest.approx(calibration["ece"]["mean"], abs=0.05)
