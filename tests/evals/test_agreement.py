"""Agreement of raters: equal to the libraries on the same labels, and intervals that cover."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import cohen_kappa_score

from sawyer.errors import SawyerError
from sawyer.evals import agreement, monotone

NO = None
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C and E: four observers of twelve units
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
    [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
]


def labels_of(n, seed, scale=5, noise=1.0, prompts=None):
    """Labels of two raters who see the same thing, and each something of their own; prompts differ."""
    rng = np.random.default_rng(seed)
    names = np.arange(n) if prompts is None else np.arange(n) // (n // prompts)
    truth = rng.normal(size=names.max() + 1)[names] + rng.normal(size=n)
    seen = [np.clip(np.round(truth + noise * rng.normal(size=n) + (1 + scale) / 2), 1, scale) for _ in range(2)]
    return seen[0], seen[1], names


def means(found):
    return {name: figure["mean"] for name, figure in found.items()}


def by_libraries(x, y):
    """What scipy and scikit-learn say of two lists of whole numbers."""
    x, y = np.array(x), np.array(y)
    every = np.arange(min(x.min(), y.min()), max(x.max(), y.max()) + 1)  # the whole scale, unused steps too
    kappas = {
        name: cohen_kappa_score(x.astype(int), y.astype(int), labels=every.astype(int), weights=weights)
        for name, weights in (("kappa", None), ("kappa_linear", "linear"), ("kappa_quadratic", "quadratic"))
    }
    return {
        "exact": np.mean(x == y),
        "within_one": np.mean(np.abs(x - y) <= 1),
        "mae": np.abs(x - y).mean(),
        "rmse": math.sqrt(((x - y) ** 2).mean()),
        "pearson": scipy_stats.pearsonr(x, y).statistic,
        "spearman": scipy_stats.spearmanr(x, y).statistic,
        "kendall": scipy_stats.kendalltau(x, y).statistic,
        **kappas,
    }


def slow_alpha(raters, distance):
    """Krippendorff's alpha, pair by pair of labels."""
    units = [[label for label in unit if label is not None] for unit in zip(*raters, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    every = [label for unit in units for label in unit]
    n = len(every)
    observed = sum(distance(a, b, every) / (len(unit) - 1) for unit in units for a in unit for b in unit) / n
    expected = sum(distance(a, b, every) for a in every for b in every) / (n * (n - 1))
    return 1 - observed / expected


def ordinal(a, b, every):
    between = sum(min(a, b) <= label <= max(a, b) for label in every)
    return (between - (every.count(a) + every.count(b)) / 2) ** 2


DISTANCES = {
    "nominal": lambda a, b, every: a != b,
    "ordinal": lambda a, b, every: 0 if a == b else ordinal(a, b, every),
    "interval": lambda a, b, every: (a - b) ** 2,
}


@pytest.mark.parametrize("scale", [2, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_measures_equal_those_of_the_libraries(scale, seed):
    x, y, _ = labels_of(60, seed, scale)
    found = means(agreement.pair_agreement(x.tolist(), y.tolist(), draws=10))
    assert found == pytest.approx(by_libraries(x, y), abs=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=3, max_size=25))
@settings(max_examples=60, deadline=None)
def test_measures_equal_those_of_the_libraries_whatever_the_labels(items):
    x, y = ([float(item[i]) for item in items] for i in (0, 1))
    found = means(agreement.pair_agreement(x, y, draws=5))
    assert found.keys() == {*agreement.NOMINAL, *agreement.NUMERIC}
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert found == pytest.approx(by_libraries(x, y), abs=1e-9)
    else:
        assert found["pearson"] is found["spearman"] is found["kendall"] is None


def test_labels_that_are_not_whole_are_compared_as_they_are():
    rng = np.random.default_rng(0)
    x = rng.normal(1000, 1, 80)
    y = x + rng.normal(0, 1, 80)
    found = means(agreement.pair_agreement(x.tolist(), y.tolist(), draws=10))
    assert found["pearson"] == pytest.approx(scipy_stats.pearsonr(x, y).statistic, abs=1e-10)
    assert found["spearman"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found["kendall"] == pytest.approx(scipy_stats.kendalltau(x, y).statistic, abs=1e-12)
    expected = np.abs(x[:, None] - y).mean()
    assert found["kappa_linear"] == pytest.approx(1 - found["mae"] / expected, abs=1e-12)
    assert found["kappa_quadratic"] == pytest.approx(1 - ((x - y) ** 2).mean() / ((x[:, None] - y) ** 2).mean())


def test_kendall_in_blocks_is_kendall(monkeypatch):
    x, y, _ = labels_of(100, 5, 9)
    whole = agreement.pair_agreement(x.tolist(), y.tolist(), draws=20)
    monkeypatch.setattr(agreement, "BLOCK", 100)
    assert means(agreement.pair_agreement(x.tolist(), y.tolist(), draws=20)) == pytest.approx(means(whole), abs=1e-12)


def test_every_resample_is_what_the_libraries_say_of_it():
    """One draw of the bootstrap: its interval is the one value that it found."""
    x, y, names = labels_of(40, 2, prompts=10)
    found = agreement.pair_agreement(x.tolist(), y.tolist(), names.tolist(), draws=1, seed=7)
    times = np.random.default_rng(7).multinomial(10, np.full(10, 0.1), 1)[0]
    at = np.repeat(np.arange(40), times[names])
    slow = by_libraries(x[at], y[at])
    for name in ("mae", "rmse", "pearson", "spearman", "kendall", "kappa_quadratic"):
        assert found[name]["low"] == found[name]["high"] == pytest.approx(slow[name], abs=1e-12)
        assert found[name]["n"] == 10


def test_texts_have_the_measures_that_need_no_numbers():
    x, y = ["A", "B", "tie", "A", None], ["A", "A", "tie", "B", "B"]
    found = agreement.pair_agreement(x, y, draws=50)
    assert found.keys() == set(agreement.NOMINAL)
    assert found["exact"]["mean"] == 0.5
    assert found["kappa"]["mean"] == pytest.approx(cohen_kappa_score(x[:4], y[:4]))


def test_missing_labels_leave_out_the_item_of_that_pair_only():
    x, y, _ = labels_of(30, 1)
    own, other = x.tolist(), y.tolist()
    own[3] = other[7] = None
    kept = [i for i in range(30) if i not in (3, 7)]
    assert means(agreement.pair_agreement(own, other, draws=5)) == pytest.approx(by_libraries(x[kept], y[kept]))
    with pytest.raises(SawyerError, match="no item in common"):
        agreement.pair_agreement([1.0, None], [None, 2.0])
    with pytest.raises(SawyerError, match="as many labels"):
        agreement.pair_agreement([1.0], [1.0, 2.0])


def test_one_prompt_has_no_interval_and_full_agreement_has_one():
    found = agreement.pair_agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ["p"] * 3)
    assert found["mae"] == {"mean": 0.0, "low": None, "high": None, "n": 1}
    found = agreement.pair_agreement([1.0, 2.0] * 10, [1.0, 2.0] * 10, draws=100)
    assert found["exact"]["mean"] == found["kappa"]["mean"] == 1
    assert found["exact"]["low"] < 0.9, "twenty items do not show that they always agree"


def test_a_measure_that_many_resamples_do_not_have_has_no_interval():
    found = agreement.pair_agreement([1.0] * 9 + [2.0], [float(i % 3) for i in range(10)], draws=200)
    assert found["pearson"]["mean"] is not None
    assert found["pearson"]["low"] is found["pearson"]["high"] is None, "a third lack the one label that differs"
    assert found["mae"]["low"] < found["mae"]["mean"] < found["mae"]["high"]


def test_intervals_over_prompts_cover_and_those_over_items_do_not():
    """The true value is that of a sample a hundred times as large."""
    whole = means(agreement.pair_agreement(*[v.tolist() for v in mixed(20_000, 0)[:2]], draws=2))
    inside = {name: [0, 0] for name in ("pearson", "kendall", "mae", "kappa_quadratic")}
    trials = 150
    for seed in range(1, trials + 1):
        x, y, names = mixed(300, seed)
        for i, prompts in enumerate((names.tolist(), None)):
            found = agreement.pair_agreement(x.tolist(), y.tolist(), prompts, draws=200, seed=seed)
            for name in inside:
                inside[name][i] += found[name]["low"] <= whole[name] <= found[name]["high"]
    for name, (clustered, _) in inside.items():
        assert 0.87 <= clustered / trials <= 0.99, name
    assert inside["mae"][1] / trials < 0.85


def mixed(n, seed):
    """Five items a prompt; what a rater makes of a prompt moves all its labels of it."""
    rng = np.random.default_rng(seed)
    names = np.arange(n) // 5
    shift = (1.5 * rng.normal(size=n // 5)).round()[names]
    x = rng.integers(1, 8, n).astype(float)
    return x, x + shift + rng.integers(-1, 2, n), names


def test_alpha_is_that_of_the_worked_example():
    found = means(agreement.krippendorff_alpha(OBSERVERS, draws=20))
    assert found == pytest.approx({"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_all_pairs_of_labels(seed):
    rng = np.random.default_rng(seed)
    raters = rng.choice([1.0, 2.0, 4.0, 7.5, None], (3, 15), p=[0.2, 0.3, 0.2, 0.1, 0.2]).tolist()
    found = means(agreement.krippendorff_alpha(raters, draws=5))
    for name, distance in DISTANCES.items():
        assert found[name] == pytest.approx(slow_alpha(raters, distance), abs=1e-12)


def test_alpha_is_that_of_the_krippendorff_package():
    krippendorff = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(3)
    raters = rng.choice([1.0, 2.0, 3.0, np.nan], (4, 40))
    own = [[None if math.isnan(label) else label for label in row] for row in raters.tolist()]
    for name, figure in agreement.krippendorff_alpha(own, draws=5).items():
        assert figure["mean"] == pytest.approx(krippendorff.alpha(raters, level_of_measurement=name), abs=1e-12)


def test_resampled_alpha_is_alpha_of_the_resample():
    raters = np.random.default_rng(1).integers(1, 6, (3, 24)).astype(float)
    prompts = np.arange(24) // 3
    found = agreement.krippendorff_alpha(raters.tolist(), prompts.tolist(), draws=1, seed=5)
    times = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), 1)[0]
    at = np.repeat(np.arange(24), times[prompts])
    for name, distance in DISTANCES.items():
        assert found[name]["low"] == pytest.approx(slow_alpha(raters[:, at].tolist(), distance), abs=1e-12)


def test_alpha_of_texts_is_nominal_and_of_nothing_to_compare_not_defined():
    assert agreement.krippendorff_alpha([["a", "b", "a"], ["a", "b", "b"]], draws=5).keys() == {"nominal"}
    assert agreement.krippendorff_alpha([["a", "a"], ["a", "a"]], draws=5)["nominal"]["mean"] is None
    assert agreement.krippendorff_alpha([[1.0, None], [None, 2.0]], draws=5)["interval"]["mean"] is None
    with pytest.raises(SawyerError, match="as many labels"):
        agreement.krippendorff_alpha([[1.0], [1.0, 2.0]])


# --- calibration ------------------------------------------------------------------------------------------------------


def test_a_calibration_takes_out_the_scale_and_leaves_the_order():
    rng = np.random.default_rng(0)
    people = rng.integers(1, 6, 400).astype(float)
    judge = people**2 + 40  # the same opinion on another scale
    values, nearest = monotone.cross_fitted(judge, people)
    assert np.array_equal(nearest, people)
    found = means(agreement.calibrated_agreement(values, nearest, people, draws=20))
    assert found["exact"] == found["kappa_quadratic"] == found["kendall"] == 1
    assert found["mae"] == pytest.approx(0, abs=1e-9)
    assert np.array_equal(monotone.cross_fitted(-judge, people)[1], people), "or the scale runs the other way"


def test_nothing_is_calibrated_by_a_map_that_saw_its_prompt():
    """A judge that names the item, and labels that are noise: a map that saw them would know them all."""
    rng = np.random.default_rng(1)
    prompts = np.arange(200) // 4
    people = rng.integers(1, 6, 50).astype(float)[prompts]
    judge = np.sort(rng.normal(size=50))[np.argsort(np.argsort(people[::4], kind="stable"))][prompts]
    values, _ = monotone.cross_fitted(judge, people, prompts.tolist(), folds=5, seed=3)
    for prompt in range(50):
        changed = people.copy()
        changed[prompts == prompt] = 9.0
        assert np.array_equal(
            monotone.cross_fitted(judge, changed, prompts.tolist(), folds=5, seed=3)[0][prompts == prompt],
            values[prompts == prompt],
        )


def test_each_fold_has_the_isotonic_regression_of_the_others():
    x, y, names = labels_of(30, 4, prompts=3)
    values, nearest = monotone.cross_fitted(x, y, names.tolist(), folds=5)
    for prompt in range(3):
        inside = names == prompt
        fitted = IsotonicRegression(out_of_bounds="clip").fit(x[~inside], y[~inside])
        assert values[inside] == pytest.approx(fitted.predict(x[inside]))
    assert set(nearest) <= set(y)
    with pytest.raises(SawyerError, match="two prompts"):
        monotone.cross_fitted(x, y, ["p"] * 30)


def test_noise_is_not_calibrated_into_agreement():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=500), rng.integers(1, 6, 500).astype(float)
    values, nearest = monotone.cross_fitted(x, y)
    found = agreement.calibrated_agreement(values, nearest, y, draws=200)
    assert abs(found["pearson"]["mean"]) < 0.15
    assert abs(found["kappa_quadratic"]["mean"]) < 0.15


def test_calibrated_measures_are_of_values_and_of_the_nearest_labels():
    x, y, _ = labels_of(60, 6)
    values, nearest = monotone.cross_fitted(x, y)
    found = means(agreement.calibrated_agreement(values, nearest, y, draws=5))
    assert found["rmse"] == pytest.approx(math.sqrt(((values - y) ** 2).mean()))
    assert found["spearman"] == pytest.approx(scipy_stats.spearmanr(values, y).statistic)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(nearest.astype(int), y.astype(int)))
    assert found["exact"] == np.mean(nearest == y)


def test_a_curve_has_a_point_for_each_label_or_for_bins_of_many():
    x, y, names = labels_of(60, 6)
    points = monotone.curve(x, y, monotone.cross_fitted(x, y)[0], names.tolist())
    assert [point["label"] for point in points] == sorted(set(x))
    assert sum(point["n"] for point in points) == 60
    assert points[1]["mean"]["mean"] == pytest.approx(y[x == points[1]["label"]].mean())
    many = np.random.default_rng(0).normal(size=200)
    assert len(monotone.curve(many, many, many)) == monotone.POINTS
