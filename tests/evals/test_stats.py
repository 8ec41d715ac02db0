import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from sawyer.errors import SawyerError
from sawyer.evals import stats

finite = st.floats(-1e3, 1e3, allow_nan=False)
samples = st.lists(finite, min_size=2, max_size=30)


def covered(estimates, truth):
    return np.mean([e.low <= truth <= e.high for e in estimates])


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    trials = [stats.bootstrap_mean(rng.normal(0.3, 1, 80), draws=800, seed=i) for i in range(1000)]
    assert 0.92 <= covered(trials, 0.3) <= 0.98


def test_cluster_bootstrap_covers_the_truth_where_the_plain_one_does_not():
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(60), 4)
    clustered, plain = [], []
    for i in range(600):
        values = np.repeat(rng.normal(0, 1, 60), 4) + rng.normal(0, 0.5, 240)
        clustered.append(stats.bootstrap_mean(values, prompts.tolist(), draws=600, seed=i))
        plain.append(stats.bootstrap_mean(values, draws=600, seed=i))
    assert 0.92 <= covered(clustered, 0) <= 0.98
    assert covered(plain, 0) < 0.8


def test_clustered_win_rate_interval_covers_the_truth():
    rng = np.random.default_rng(2)
    prompts = np.repeat(np.arange(60), 3).tolist()
    trials = []
    for _ in range(1000):
        chance = np.repeat(rng.beta(2, 1, 60), 3)  # mean 2/3
        trials.append(stats.proportion((rng.random(180) < chance).astype(float), prompts))
    assert 0.92 <= covered(trials, 2 / 3) <= 0.98


def test_paired_interval_covers_and_its_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(3)
    nulls = []
    for i in range(600):
        base = rng.normal(0, 1, 50)
        nulls.append(stats.paired_difference(base + rng.normal(0, 0.5, 50), base, draws=600, seed=i))
    assert 0.92 <= covered(nulls, 0) <= 0.98
    assert 0.02 <= np.mean([d.p_value < 0.05 for d in nulls]) <= 0.08


@given(samples)
@settings(max_examples=30, deadline=None)
def test_identical_samples_come_out_no_different(values):
    difference = stats.paired_difference(values, values, draws=200)
    assert (difference.mean, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)
    assert not difference.excludes_zero
    assert math.isnan(difference.effect_size)
    rate = stats.win_rate(values, values)
    assert rate.mean == 0.5
    assert rate.low < 0.5 < rate.high


@given(samples, st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_bootstrap_agrees_with_a_plain_loop_over_resamples(values, seed):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(values), (150, len(values)))
    slow = [np.mean([values[i] for i in row]) for row in drawn]
    fast = stats.bootstrap_mean(values, draws=150, seed=seed)
    assert [fast.low, fast.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist(), abs=1e-9)
    assert fast.mean == pytest.approx(np.mean(values))


@given(samples)
@settings(max_examples=30, deadline=None)
def test_one_value_a_cluster_is_the_same_as_no_clusters(values):
    assert stats.bootstrap_mean(values, list(range(len(values))), draws=50) == stats.bootstrap_mean(values, draws=50)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
@settings(max_examples=50, deadline=None)
def test_exact_test_equals_scipys_for_few_pairs(differences):
    ours = stats.sign_flip_test(differences)
    theirs = scipy_stats.permutation_test(
        (np.array(differences), np.zeros(len(differences))),
        lambda a, b: np.sum(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert ours == pytest.approx(min(1, theirs.pvalue), abs=1e-12)


def test_monte_carlo_test_is_near_the_exact_one_and_never_zero():
    differences = np.random.default_rng(4).normal(0.4, 1, 12)
    exact = stats.sign_flip_test(differences, draws=5000)
    sampled = stats.sign_flip_test(differences, draws=4000)
    assert sampled == pytest.approx(exact, abs=0.03)
    assert stats.sign_flip_test(np.ones(100), draws=999) == 1 / 1000


def test_clusters_weigh_the_same_in_a_paired_difference():
    difference = stats.paired_difference([1, 1, 1, 0], [0, 0, 0, 0], clusters=["p", "p", "p", "q"])
    assert (difference.mean, difference.n) == (0.5, 2)


@given(st.integers(1, 500), st.data())
@settings(max_examples=50, deadline=None)
def test_wilson_equals_scipys(n, data):
    successes = data.draw(st.integers(0, n))
    ours = stats.wilson(successes, n)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    shares = [1.0] * successes + [0.0] * (n - successes)
    same = stats.proportion(shares)
    assert (same.low, same.high) == pytest.approx((ours.low, ours.high), abs=1e-9)


def test_a_hundred_wins_of_a_hundred_still_have_an_interval():
    rate = stats.win_rate(np.ones(100), np.zeros(100))
    assert rate.mean == rate.high == 1
    assert 0.95 < rate.low < 0.97


def test_detectable_difference_is_found_with_the_stated_power():
    size = stats.minimum_detectable_difference(sd=1.0, n=100)
    assert size == pytest.approx(0.2802, abs=1e-4)
    rng = np.random.default_rng(5)
    found = np.mean([abs(x.mean() / (x.std(ddof=1) / 10)) > 1.984 for x in rng.normal(size, 1, (2000, 100))])
    assert found == pytest.approx(0.8, abs=0.03)


def test_holm_equals_its_worked_example():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = stats.holm(p_values)
    assert all(a >= p and a <= 1 for a, p in zip(adjusted, p_values, strict=True))
    by_p = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


def test_effect_size_is_mean_over_sd():
    assert stats.cohens_d([1, 2, 3]) == pytest.approx(2.0)
    assert math.isnan(stats.cohens_d([1.0]))


def test_one_unit_has_no_interval():
    estimate = stats.bootstrap_mean([1.0, 2.0], clusters=["p", "p"])
    assert (estimate.mean, estimate.n) == (1.5, 1)
    assert math.isnan(estimate.low)
    assert not estimate.excludes_zero


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.bootstrap_mean([]),
        lambda: stats.bootstrap_mean([1, math.nan]),
        lambda: stats.bootstrap_mean([1, 2], clusters=[1]),
        lambda: stats.bootstrap_mean([1, 2], level=95),
        lambda: stats.paired_difference([1], [1, 2]),
        lambda: stats.win_rate([1], [1, 2]),
        lambda: stats.proportion([1.2]),
        lambda: stats.wilson(3, 2),
        lambda: stats.minimum_detectable_difference(1, 0),
    ],
)
def test_a_mistake_is_one_sentence(call):
    with pytest.raises(SawyerError) as error:
        call()
    assert len(str(error.value)) > 20
    assert "\n" not in str(error.value)
