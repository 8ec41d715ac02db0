import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.errors import SawyerError
from sawyer.evals import best_of_n


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (2, 0.193), (4, 0.636), (8, 1.204), (16, 1.835)])
def test_the_kl_of_best_of_n(n, nats):
    assert best_of_n.kl(n) == pytest.approx(nats, abs=6e-4)


def test_the_kl_is_that_of_the_best_of_many_different_samples():
    """Of K equally likely answers the k-th by reward is the best of n with chance (k/K)^n - ((k-1)/K)^n."""
    answers, n = 20_000, 4
    k = np.arange(1, answers + 1)
    chance = (k / answers) ** n - ((k - 1) / answers) ** n
    assert float((chance * np.log(chance * answers)).sum()) == pytest.approx(best_of_n.kl(n), abs=1e-3)


def brute_force(proxy, values, n):
    """The mean over all subsets of n, where ties are broken at random."""
    kept = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        kept.append(np.mean([values[i] for i in subset if proxy[i] == top]))
    return float(np.mean(kept))


def test_a_worked_curve():
    # proxy order: c < a < b. Best of two: {a,b} b, {a,c} a, {b,c} b.
    proxy, gold = [0.5, 2.0, -1.0], [0.9, 0.3, 0.6]
    assert best_of_n.expected(proxy, gold, 1) == pytest.approx(0.6)
    assert best_of_n.expected(proxy, gold, 2) == pytest.approx((0.3 + 0.9 + 0.3) / 3)
    assert best_of_n.expected(proxy, gold, 3) == pytest.approx(0.3)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=7), st.data())
@settings(max_examples=60, deadline=None)
def test_it_is_the_mean_over_all_subsets(samples, data):
    proxy, gold = map(list, zip(*samples, strict=True))
    n = data.draw(st.integers(1, len(proxy)))
    if len(set(proxy)) == len(proxy):
        assert best_of_n.expected(proxy, gold, n) == pytest.approx(brute_force(proxy, gold, n), abs=1e-9)
    assert best_of_n.expected(proxy, proxy, n) == pytest.approx(brute_force(proxy, proxy, n), abs=1e-9)


def test_samples_of_equal_proxy_count_alike_in_any_order():
    proxy, gold = [1.0, 1.0, 0.0, 1.0], [0.2, 0.8, 0.5, 0.2]
    assert best_of_n.expected(proxy, gold, 4) == pytest.approx(0.4)
    turned = best_of_n.expected(proxy[::-1], gold[::-1], 2)
    assert best_of_n.expected(proxy, gold, 2) == pytest.approx(turned)


@pytest.mark.parametrize("samples", [1, 5, 64, 1000])
def test_the_chances_sum_to_one(samples):
    for n in best_of_n.sizes(samples):
        chance = best_of_n.weights(samples, n)
        assert chance.sum() == pytest.approx(1, abs=1e-9)
        exact = [math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)]
        np.testing.assert_allclose(chance, exact, rtol=1e-8, atol=1e-15)


def test_it_is_unbiased():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(4000, 6))
    gold = 0.5 * proxy + rng.normal(size=proxy.shape)
    estimates = best_of_n.curve(proxy, gold, [3])
    assert estimates.shape == (4000, 1)
    truth = 0.5 * np.sort(rng.normal(size=(200_000, 3)), 1)[:, -1].mean()
    assert estimates.mean() == pytest.approx(truth, abs=0.03)


def test_sizes_are_powers_of_two_and_the_last():
    assert best_of_n.sizes(1) == [1]
    assert best_of_n.sizes(8) == [1, 2, 4, 8]
    assert best_of_n.sizes(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(
    ("proxy", "values", "n", "message"),
    [
        ([1.0], [1.0], 2, "best of 2 cannot be estimated from 1 samples"),
        ([1.0], [1.0], 0, "best of 0 cannot be"),
        ([1.0, 2.0], [1.0], 1, "there are 1 and 2"),
        ([1.0, math.nan], [1.0, 1.0], 1, "a NaN or infinity"),
    ],
)
def test_what_cannot_be_estimated_is_refused(proxy, values, n, message):
    with pytest.raises(SawyerError, match=message):
        best_of_n.expected(proxy, values, n)


def test_best_of_none_has_no_kl():
    with pytest.raises(SawyerError, match="n must be at least 1"):
        best_of_n.kl(0)
