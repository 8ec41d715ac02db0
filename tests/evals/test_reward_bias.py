"""Length, authors and best-of-n, against slow and obvious counting."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from sawyer.errors import SawyerError
from sawyer.evals import reward_bias


def test_accuracy_by_length_difference_sees_a_model_that_counts():
    rng = np.random.default_rng(0)
    differences = rng.integers(-50, 51, 400)
    groups = reward_bias.by_length_difference(differences / 10, differences, bins=4)
    assert [group["n"] for group in groups] == pytest.approx([100] * 4, abs=8)
    assert all(a["high"] < b["low"] for a, b in itertools.pairwise(groups))
    assert groups[0]["accuracy"]["mean"] == 0
    assert groups[-1]["accuracy"]["mean"] == 1
    for group in groups:
        assert group["accuracy"] == group["longer_wins"]


def test_a_model_blind_to_length_is_beside_choosing_the_longer():
    groups = reward_bias.by_length_difference([1.0, 1.0, 1.0, 1.0], [-5, -4, 4, 5], ["a", "a", "b", "b"], bins=2)
    assert [(g["low"], g["high"]) for g in groups] == [(-5, -4), (4, 5)]
    assert [g["accuracy"]["mean"] for g in groups] == [1, 1]
    assert [g["longer_wins"]["mean"] for g in groups] == [0, 1]
    assert groups[0]["accuracy"]["n"] == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_equal_values_share_a_bin_and_order_is_kept(values, bins):
    found = reward_bias.equal_mass_bins(values, bins)
    assert len(set(found)) <= bins
    for (x, a), (y, b) in itertools.product(zip(values, found, strict=True), repeat=2):
        assert (a == b) if x == y else (a <= b) if x < y else True


def test_bins_hold_equally_many_different_values():
    assert np.bincount(reward_bias.equal_mass_bins(range(12), 4)).tolist() == [3, 3, 3, 3]
    assert np.bincount(reward_bias.equal_mass_bins(range(2), 4)).tolist() == [1, 1]


def slow_source_only(chosen, rejected, prompts):
    values = []
    for i, (a, b) in enumerate(zip(chosen, rejected, strict=True)):
        others = [j for j in range(len(chosen)) if prompts[j] != prompts[i]]
        ahead = sum((chosen[j], rejected[j]) == (a, b) for j in others)
        behind = sum((chosen[j], rejected[j]) == (b, a) for j in others)
        values.append(0.5 if a == b or ahead == behind else float(ahead > behind))
    return values


authors = st.sampled_from("abc")


@given(st.lists(st.tuples(authors, authors, st.integers(0, 6)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_authors_alone_equals_counting(rows):
    columns = [list(column) for column in zip(*rows, strict=True)]
    assert reward_bias.source_only(*columns).tolist() == slow_source_only(*columns)


def test_a_better_author_is_found_out_and_stands_beside_the_model():
    chosen, rejected = ["big"] * 8 + ["small"] * 2, ["small"] * 8 + ["big"] * 2
    found = reward_bias.by_source([1.0] * 10, chosen, rejected, [3.0] * 10)
    assert found["accuracy"]["mean"] == 1
    assert found["source_only"]["mean"] == 0.8
    assert found["longer_wins"]["mean"] == 1
    assert [(p["chosen"], p["rejected"], p["n"]) for p in found["pairs"]] == [("big", "small", 8), ("small", "big", 2)]
    assert [p["source_only"]["mean"] for p in found["pairs"]] == [1, 0]
    assert "longer_wins" not in reward_bias.by_source([1.0] * 10, chosen, rejected)


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=12))
@settings(max_examples=80, deadline=None)
def test_pearson_equals_scipys(points):
    x, y = zip(*points, strict=True)
    found = reward_bias.pearson(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(pearsonr(x, y)[0], abs=1e-9)


def test_the_heat_map_drops_what_has_no_correlation():
    rewards = [[1.0, 2.0, 3.0], [0.3, 0.3, 0.3], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]
    lengths = [[10, 20, 30], [1, 2, 3], [10, 20, 30], [5, 5, 5]]
    found = reward_bias.length_heat_map(rewards, lengths, bins=4)
    assert (found["prompts"], found["dropped"]) == (4, 2)
    assert [point[1] for point in found["points"]] == [20, 20]
    assert [point[0] for point in found["points"]] == pytest.approx([1, -1])
    assert found["correlation"]["mean"] == pytest.approx(0)
    assert np.array(found["counts"]).sum() == 2
    assert np.array(found["counts"])[3].tolist() == [1, 0, 0, 1]
    json.dumps(found, allow_nan=False)


def test_a_heat_map_of_nothing():
    found = reward_bias.length_heat_map([[1.0, 1.0]], [[1, 2]])
    assert (found["correlation"], found["dropped"], found["points"]) == (None, 1, [])


def slow_best_of_n(proxy, gold, n):
    """The mean over all choices of n, and over the favourites of each."""
    values = []
    for chosen in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in chosen)
        values.append((chosen, [gold[i] for i in chosen if proxy[i] == best]))
    return sum(sum(golds) / len(golds) for _, golds in values) / len(values)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-9, 9)), min_size=1, max_size=7, unique_by=lambda x: x[0]))
@settings(max_examples=60, deadline=None)
def test_best_of_n_is_the_mean_over_all_choices(samples):
    proxy, gold = zip(*samples, strict=True)
    for n in range(1, len(proxy) + 1):
        assert reward_bias.best_of_n(proxy, gold, n) == pytest.approx(slow_best_of_n(proxy, gold, n))


def test_completions_the_proxy_cannot_tell_apart_share_their_gold():
    for proxy in ([1, 1, 0], [0, 1, 1], [2, 2, 2]):
        gold = [3.0, 6.0, 9.0]
        for n in (1, 2, 3):
            assert reward_bias.best_of_n(proxy, gold, n) == pytest.approx(slow_best_of_n(proxy, gold, n))


def test_the_curve_has_its_price():
    curve = reward_bias.best_of_n_curve([[1, 2, 3, 4]] * 3, [[0, 0, 0, 1]] * 3, (1, 2, 4))
    assert [point["gold"]["mean"] for point in curve] == pytest.approx([0.25, 0.5, 1.0])
    assert [round(point["kl_bound"], 3) for point in curve] == [0, 0.193, 0.636]


@pytest.mark.parametrize(
    "call",
    [
        lambda: reward_bias.by_length_difference([], []),
        lambda: reward_bias.by_length_difference([1.0], [1.0, 2.0]),
        lambda: reward_bias.by_length_difference([math.nan], [1.0]),
        lambda: reward_bias.by_source([1.0], ["a"], []),
        lambda: reward_bias.equal_mass_bins([1.0], 0),
        lambda: reward_bias.best_of_n([1.0], [1.0], 2),
        lambda: reward_bias.length_heat_map([[1.0]], []),
    ],
)
def test_a_mistake_is_one_sentence(call):
    with pytest.raises(SawyerError) as error:
        call()
    assert "\n" not in str(error.value)
