import json
import math

import numpy as np
import pytest

from sawyer.errors import SawyerError
from sawyer.evals import comparison, policies
from sawyer.evals.comparison import Design
from sawyer.evals.comparison_sentences import headline, sentences

WORDS = ["a", "river", "is", "water", "that", "flows", "to", "the", "sea", "and", "on", "and", "on", "it", "goes"]


def answers(model, means, *, noise=0.1, samples=2, seeds=(0,), rng=0, decoding="sample", shift=0, words=12, **extra):
    """Rows of a model whose mean reward of each prompt is given."""
    draw = np.random.default_rng(rng)
    return [
        {
            "model": model, "decoding": decoding, "prompt_id": prompt, "seed": seed, "sample": sample,
            "text": " ".join(WORDS[: words + int(draw.integers(3))]), "finished": True, "tokens": 20,
            "rewards": {"gold": float(mean + shift * seed + draw.normal(0, noise))}, **extra,
        }
        for seed in seeds
        for prompt, mean in enumerate(means)
        for sample in range(samples)
    ]  # fmt: skip


def result_of(rows, design, games=(), trained=()):
    """What an application would make of it: the arithmetic, and what sentences need to know."""
    seeds = sorted({row["seed"] for row in rows})
    return {
        "models": [{"name": name} for name in design.models],
        "decodings": [{"name": name, "samples": 2, "seeds": seeds} for name in design.decodings],
        "feedback": [{"name": name, "trained": list(trained)} for name in (*design.rewards, *design.preferences)],
        "level": design.level,
        **comparison.compare(rows, list(games), design),
    }


def difficulty(n=60, seed=7):
    return np.random.default_rng(seed).uniform(0.2, 0.8, n)


TWO = Design(("a", "b"), ("sample",), rewards=("gold",), draws=500)


def test_two_identical_models_come_out_as_no_different():
    """The same generator twice, drawn apart: at most 5 in 100 may be told apart, whatever is compared."""
    verdicts = []
    for seed in range(100):
        means = difficulty(40, seed)
        rows = answers("a", means, rng=(seed, 1), noise=0.3) + answers("b", means, rng=(seed, 2), noise=0.3)
        found = comparison.compare(rows, [], Design(("a", "b"), ("sample",), rewards=("gold",), draws=400))
        verdicts.append(found["comparisons"][0]["rewards"]["gold"]["verdict"])
    assert verdicts.count("none") >= 93


def test_all_pairs_decodings_and_rewards_are_one_family():
    names, means = ("a", "b", "c"), difficulty(20)
    rows = [
        row
        for k, name in enumerate(names)
        for j, decoding in enumerate(("sample", "nucleus"))
        for row in answers(name, means + 0.02 * k, rng=(5, k, j), decoding=decoding)
    ]
    for k, row in enumerate(rows):
        row["rewards"]["other"] = row["rewards"]["gold"] + 0.05 * (k % 3)
    found = comparison.compare(rows, [], Design(names, ("sample", "nucleus"), rewards=("gold", "other"), draws=300))
    every = [told for one in found["comparisons"] for told in one["rewards"].values()]
    assert found["tests"] == len(every) == 3 * 2 * 2
    p = sorted(told["p_value"] for told in every)
    slow = [min(1.0, max((len(p) - i) * p[i] for i in range(rank + 1))) for rank in range(len(p))]
    assert sorted(told["p_holm"] for told in every) == pytest.approx(slow)


def test_a_difference_is_found_and_said():
    base = difficulty()
    rows = answers("a", base, rng=1) + answers("b", base + 0.15, rng=2)
    result = result_of(rows, TWO)
    gold = result["comparisons"][0]["rewards"]["gold"]
    assert (gold["verdict"], gold["n"]) == ("better", 60)
    assert 0.1 < gold["low"] < gold["mean"] < gold["high"] < 0.25
    assert gold["p_value"] == gold["p_holm"] < 0.01
    assert gold["cliffs_delta"]["mean"] == pytest.approx(2 * gold["win_rate"]["mean"] - 1)
    assert gold["length_matched"]["mean"] == pytest.approx(gold["mean"], abs=0.03)
    said = headline(result)
    assert said.startswith("b is better than a by +0.1")
    assert "gold (95 % interval +0.1" in said
    assert "n = 60 prompts x 2, p = 0.00" in said


def test_no_difference_says_what_would_have_been_seen():
    base = difficulty(20)
    rows = answers("a", base, rng=1, noise=0.4) + answers("b", base, rng=2, noise=0.4)
    result = result_of(rows, TWO)
    gold = result["comparisons"][0]["rewards"]["gold"]
    assert gold["detectable"] == pytest.approx(2.8016 * gold["sd"] / math.sqrt(20), rel=1e-3)
    said = headline(result)
    assert said.startswith("No difference in gold can be told between b and a: ")
    assert f"with n = 20 prompts x 2 only differences above {gold['detectable']:.2f}" in said


def test_the_proxy_of_a_training_is_called_so():
    base = difficulty()
    result = result_of(answers("a", base, rng=1) + answers("b", base + 0.2, rng=2), TWO, trained=["b"])
    assert headline(result).endswith("(gold is what b was trained on.)")


def test_equal_answers_and_a_single_prompt_have_their_own_sentences():
    base = difficulty(5)
    rows = answers("a", base, noise=0)
    same = result_of(rows + [{**row, "model": "b"} for row in rows], TWO)
    assert "it is the same on every prompt (n = 5 prompts x 2)" in headline(same)
    one = result_of(answers("a", [0.1]) + answers("b", [0.9]), TWO)
    assert "one prompt has no interval" in headline(one)
    assert one["comparisons"][0]["rewards"]["gold"]["verdict"] == "none"


def test_a_longer_writer_is_compared_at_equal_length():
    """b is no better, only longer; reward follows length."""
    rng = np.random.default_rng(0)
    rows = []
    for model, longest in (("a", 8), ("b", 14)):
        for prompt in range(80):
            for sample in range(4):
                length = int(rng.integers(4, longest))
                rows.append(
                    {"model": model, "decoding": "sample", "prompt_id": prompt, "seed": 0, "sample": sample,
                     "text": " ".join(["word"] * length), "finished": True, "tokens": None,
                     "rewards": {"gold": 0.1 * length + rng.normal(0, 0.05)}}
                )  # fmt: skip
    gold = comparison.compare(rows, [], TWO)["comparisons"][0]["rewards"]["gold"]
    assert gold["mean"] > 0.2
    assert abs(gold["length_matched"]["mean"]) < 0.08
    assert gold["length_matched"]["n"] <= 80
    assert comparison.compare(rows, [], TWO)["comparisons"][0]["words"]["mean"] == pytest.approx(3, abs=0.5)


def test_answers_of_very_different_length_are_not_matched():
    rows = answers("a", difficulty(5), words=3) + answers("b", difficulty(5), words=12)
    assert policies.length_matched(
        [{**row, "gold": 1.0} for row in rows[:10]], [{**row, "gold": 1.0} for row in rows[10:]], "gold", 0.95, 100, 0
    ) is None  # fmt: skip


def test_seeds_of_trainings_widen_the_interval():
    base, shifts = difficulty(), (0, 1, 2)
    rows = answers("a", base, seeds=shifts, rng=1, noise=0.02)
    rows += answers("b", base + 0.05, seeds=shifts, rng=2, noise=0.02, shift=0.1)
    drawn = comparison.compare(rows, [], TWO)["comparisons"][0]["rewards"]["gold"]
    trained = comparison.compare(
        rows, [], Design(("a", "b"), ("sample",), rewards=("gold",), draws=500, trained_seeds=True)
    )["comparisons"][0]["rewards"]["gold"]
    assert drawn["verdict"] == "better"
    assert trained["verdict"] == "none", "three trainings that differ by as much as they gain"
    assert trained["mean"] == pytest.approx(drawn["mean"])
    assert list(trained["over_seeds"]["by_seed"]) == ["0", "1", "2"]
    assert trained["detectable"] > drawn["detectable"]


def test_preferences_are_tested_against_one_half():
    rows = answers("a", difficulty(40)) + answers("b", difficulty(40))
    games = [
        {"feedback": "judge", "decoding": "sample", "a": "a", "b": "b", "prompt_id": i,
         "p": 1.0 if i % 4 else 0.0, "games": [1.0, 1.0] if i % 4 else [0.0, None]}
        for i in range(40)
    ]  # fmt: skip
    design = Design(("a", "b"), ("sample",), preferences=("judge",), draws=500)
    result = result_of(rows, design, games)
    judged = result["comparisons"][0]["preferences"]["judge"]
    assert judged["win_rate"]["mean"] == 0.75
    assert judged["mean"] == 0.25
    assert (judged["pairs"], judged["both_orders"], judged["without_verdict"]) == (40, 40, 10)
    assert judged["consistent"] == 0.75
    assert judged["verdict"] == "better"
    assert headline(result).startswith("b beats a in 75 % of pairs by judge (95 % interval ")


def test_what_the_models_were_is_measured():
    n = 30
    rows = answers("a", difficulty(n), logp=-10.0, reference_logp=-12.0, reference_tokens=6, entropy=1.5)
    rows += answers("b", difficulty(n), rng=3)
    for k, row in enumerate(rows[: 2 * n]):
        row["embedding"] = [float(k % 2), 1.0 - k % 2]
    rows[0]["text"] = " "
    a, b = comparison.compare(rows, [], TWO)["figures"]
    assert a["perplexity"]["mean"] == pytest.approx(math.exp(2))
    assert a["kl"]["mean"] == 2
    assert a["entropy"]["mean"] == 1.5
    assert a["dispersion"]["mean"] == pytest.approx(2), "opposite, once what they share is taken off"
    assert (a["empty"], b["empty"]) == (1, 0)
    assert a["kl_unbiased"] is False
    for name in ("perplexity", "kl", "entropy", "dispersion"):
        assert name not in b
    assert {"self_bleu", "distinct_2", "repetition", "words"} <= b.keys()


def test_a_missing_score_is_left_out_and_counted():
    rows = answers("a", difficulty(10)) + answers("b", difficulty(10), rng=4)
    rows[0]["rewards"]["gold"] = None
    found = comparison.compare(rows, [], TWO)
    assert found["figures"][0]["rewards"]["gold"]["missing"] == 1
    assert found["comparisons"][0]["rewards"]["gold"]["n"] == 10


def test_every_two_or_each_with_the_first():
    every = Design(("a", "b", "c"), ("sample",))
    assert every.pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert Design(("a", "b", "c"), ("sample",), against="first").pairs == [("a", "b"), ("a", "c")]


def test_results_survive_json_and_have_a_sentence_for_each_test():
    base = difficulty(12)
    rows = [row for k, name in enumerate("abc") for row in answers(name, base, rng=k)]
    result = result_of(rows, Design(("a", "b", "c"), ("sample",), rewards=("gold",), draws=200))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert len(sentences(result)) == result["tests"] == 3


def test_a_model_without_answers_is_refused():
    with pytest.raises(SawyerError, match="b has no answers by sample"):
        comparison.compare(answers("a", [0.1]), [], TWO)
