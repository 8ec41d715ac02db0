import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.errors import SawyerError
from sawyer.evals import diversity, policies


def rows(gold, *, samples=2, proxy=True, seed=0, text="a river is water that flows to the sea"):
    """Completions of one policy: `gold` is the mean reward of each prompt."""
    rng = np.random.default_rng(seed)
    return [
        {
            "prompt_id": prompt,
            "sample": sample,
            "text": text,
            "tokens": 20 + int(rng.integers(10)),
            "finished": bool(rng.random() < 0.9),
            "gold": float(mean + rng.normal(0, 0.05)),
            "proxy": float(2 * mean + rng.normal(0, 0.2)) if proxy else None,
            "kl": float(abs(rng.normal(3, 1))),
        }
        for prompt, mean in enumerate(gold)
        for sample in range(samples)
    ]


def difficulty(n=40):
    return np.random.default_rng(7).uniform(0.2, 0.6, n)


@pytest.fixture
def improving():
    base = difficulty()
    return policies.evaluate(
        {"base": rows(base, seed=1), "sft": rows(base + 0.1, seed=2), "iterate-1": rows(base + 0.2, seed=3)},
        "base",
        draws=2000,
    )


def test_improvement_is_found_with_interval_test_and_win_rate(improving):
    against_base = policies.comparison_of(improving, "iterate-1")
    gold = against_base["gold"]
    assert 0.15 < gold["low"] < gold["mean"] < gold["high"] < 0.25
    assert gold["n"] == 40
    assert gold["p_value"] <= gold["p_holm"] < 0.01
    assert gold["win_rate"]["mean"] > 0.95
    assert gold["effect_size"] > 1
    assert policies.comparison_of(improving, "iterate-1", "sft")["roles"] == ["previous"]
    assert policies.comparison_of(improving, "sft")["roles"] == ["baseline", "previous"]


def test_the_one_before_is_left_out_where_the_order_means_nothing():
    base = difficulty()
    by_policy = {name: rows(base + gain, seed=1) for name, gain in (("base", 0.0), ("a", 0.1), ("b", 0.1))}
    found = policies.evaluate(by_policy, "base", previous=False, draws=200)
    assert [(c["policy"], c["against"], c["roles"]) for c in found["comparisons"]] == [
        ("a", "base", ["baseline"]),
        ("b", "base", ["baseline"]),
    ]


def test_every_figure_has_n_and_interval(improving):
    for figures in improving["policies"].values():
        assert figures.pop("self_bleu")["mean"] == pytest.approx(1), "all answers are the same"
        measured = {name: figure for name, figure in figures.items() if name not in ("prompts", "completions")}
        assert {"gold", "proxy", "kl", "tokens", "finished", "distinct_1", "distinct_2", "repetition"} == set(measured)
        for figure in measured.values():
            assert figure["low"] <= figure["mean"] <= figure["high"]
            assert figure["n"] == 40


def test_evaluation_survives_json(improving):
    assert json.loads(json.dumps(improving, allow_nan=False)) == improving


def test_a_policy_does_not_differ_from_itself():
    same = rows(difficulty(), seed=1)
    evaluation = policies.evaluate({"base": same, "copy": same}, "base", draws=500)
    gold = policies.comparison_of(evaluation, "copy")["gold"]
    assert (gold["mean"], gold["p_value"], gold["win_rate"]["mean"]) == (0, 1, 0.5)
    assert policies.headline(evaluation).startswith("No difference shown between copy and base")


def test_missing_numbers_are_left_out_and_not_zero():
    complete = rows(difficulty(), seed=1)
    holes = [dict(row) for row in complete]
    for row in holes[:20]:
        row["gold"] = None
    for row in holes[20:30]:
        row["gold"] = math.nan
    evaluation = policies.evaluate({"base": complete, "holes": holes}, "base", draws=500)
    kept = [row["gold"] for row in complete[30:]]
    assert evaluation["policies"]["holes"]["gold"]["mean"] == pytest.approx(np.mean(kept))
    assert evaluation["policies"]["holes"]["gold"]["n"] == 25
    assert policies.comparison_of(evaluation, "holes")["gold"]["mean"] == 0
    assert policies.comparison_of(evaluation, "holes")["gold"]["n"] == 25


def test_a_column_nobody_measured_is_absent():
    without = rows(difficulty(), proxy=False)
    evaluation = policies.evaluate({"base": without, "sft": without}, "base", draws=100)
    assert "proxy" not in evaluation["policies"]["base"]
    assert "proxy" not in policies.comparison_of(evaluation, "sft")


def test_only_prompts_both_answered_are_compared():
    base = difficulty(20)
    evaluation = policies.evaluate({"base": rows(base), "sft": rows(base + 0.1)[10:]}, "base", draws=500)
    assert policies.comparison_of(evaluation, "sft")["gold"]["n"] == 15


@given(st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_changes_nothing(permutation):
    ours, base = rows(difficulty(6) + 0.1, seed=1), rows(difficulty(6), seed=2)
    straight = policies.evaluate({"base": base, "sft": ours}, "base", draws=50)
    assert straight == policies.evaluate({"base": base, "sft": [ours[i] for i in permutation]}, "base", draws=50)


def test_win_rate_counts_all_pairs_of_samples_with_ties_half():
    def of(values):
        return [
            {"prompt_id": 0, "sample": i, "text": "x", "tokens": 1, "finished": True, "gold": v}
            for i, v in enumerate(values)
        ]

    evaluation = policies.evaluate({"base": of([1, 2]), "sft": of([2, 3])}, "base")
    assert policies.comparison_of(evaluation, "sft")["gold"]["win_rate"]["mean"] == 3.5 / 4


def test_headline_names_size_interval_and_n(improving):
    sentence = policies.headline(improving)
    assert sentence.startswith("iterate-1 beats base by +0.")
    assert "95 % interval +0." in sentence
    assert "n = 40 prompts x 2 samples" in sentence


def test_headline_states_the_seeds_of_the_training():
    base = difficulty()
    both = {"base": rows(base), "sft": rows(base + 0.1)}
    for seeds, said in (([0], ", one seed (0))."), ([0, 3], ", 2 seeds (0, 3)).")):
        evaluation = policies.evaluate(both, "base", training_seeds=seeds, draws=200)
        assert evaluation["training_seeds"] == seeds
        assert policies.headline(evaluation).endswith("x 2 samples" + said)


def test_headline_says_worse_where_it_is_worse():
    base = difficulty()
    evaluation = policies.evaluate({"base": rows(base), "ppo": rows(base - 0.2)}, "base", draws=500)
    assert policies.headline(evaluation).startswith("ppo is worse than base by -0.")


def test_headline_of_one_prompt_claims_nothing():
    evaluation = policies.evaluate({"base": rows([0.1]), "sft": rows([0.9])}, "base", draws=100)
    assert policies.headline(evaluation).startswith("No difference shown")
    json.dumps(evaluation, allow_nan=False)


def test_headline_of_the_baseline_alone_says_so():
    assert "baseline itself" in policies.headline(policies.evaluate({"base": rows([0.1, 0.2])}, "base", draws=100))


def test_the_subject_is_the_one_asked_for():
    base = difficulty()
    evaluation = policies.evaluate(
        {"base": rows(base), "best": rows(base + 0.2), "last": rows(base)}, "base", subject="best", draws=500
    )
    assert policies.headline(evaluation).startswith("best beats base")


def test_repetition_and_distinct_follow_their_definitions():
    assert diversity.words("The sea, the SEA!") == ["the", "sea", "the", "sea"]
    assert diversity.repetition(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(1 / 5)
    assert diversity.repetition(["too", "short"]) is None
    assert diversity.distinct([["a", "b"], ["a", "c"]], 1) == 3 / 4
    assert diversity.distinct([["a"]], 2) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: policies.evaluate({}, "base"),
        lambda: policies.evaluate({"sft": rows([0.1])}, "base"),
        lambda: policies.evaluate({"base": []}, "base"),
        lambda: policies.evaluate({"base": rows([0.1])}, "base", order=["base", "sft"]),
        lambda: policies.evaluate({"base": rows([0.1])}, "base", subject="sft"),
    ],
)
def test_a_mistake_is_one_sentence(call):
    with pytest.raises(SawyerError) as error:
        call()
    assert "\n" not in str(error.value)
