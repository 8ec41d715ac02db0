import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sawyer.errors import SawyerError
from sawyer.evals import policies
from sawyer.evals.crossed import crossed_mean
from sawyer.evals.over_seeds import over_seeds, prompt_figures


def draw(rng, seeds, prompts, of_seed, of_prompt, rest, mean=0.5):
    return (
        mean
        + of_seed * rng.normal(size=(seeds, 1))
        + of_prompt * rng.normal(size=prompts)
        + rest * rng.normal(size=(seeds, prompts))
    )


def test_a_worked_table():
    # means 2.5 (seeds 2, 3; prompts 1.5, 2.5, 3.5), no interaction: MS 1.5, 2, 0
    found = crossed_mean([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    error = math.sqrt((1.5 + 2.0) / 6)
    freedom = 3.5**2 / (1.5**2 / 1 + 2.0**2 / 2)
    assert found.mean == 2.5
    assert found.freedom == pytest.approx(freedom)
    assert found.high - 2.5 == pytest.approx(scipy_stats.t.ppf(0.975, freedom) * error)
    assert found.p_value == pytest.approx(2 * scipy_stats.t.sf(2.5 / error, freedom))
    assert (found.n, found.seeds) == (3, 2)


@pytest.mark.parametrize(
    ("of_seed", "of_prompt", "rest"), [(0.1, 0.2, 0.2), (0.0, 0.3, 0.1), (0.2, 0.0, 0.2), (0.0, 0.0, 0.3)]
)
def test_the_interval_covers_seeds_and_prompts(of_seed, of_prompt, rest):
    rng = np.random.default_rng(1)
    found = [crossed_mean(draw(rng, 3, 30, of_seed, of_prompt, rest)) for _ in range(1500)]
    covered = np.mean([one.low <= 0.5 <= one.high for one in found])
    assert covered > 0.935, covered


def test_a_bootstrap_of_three_seeds_would_be_too_narrow():
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(400):
        table = draw(rng, 3, 30, 0.2, 0.05, 0.1)
        means = [table[rng.integers(0, 3, 3)][:, rng.integers(0, 30, 30)].mean() for _ in range(300)]
        low, high = np.quantile(means, (0.025, 0.975))
        hits.append(low <= 0.5 <= high)
    assert np.mean(hits) < 0.85


def test_more_seeds_do_not_make_up_for_few_prompts():
    rng = np.random.default_rng(3)
    width = lambda found: found.high - found.low
    widths = [np.mean([width(crossed_mean(draw(rng, s, 10, 0, 0.3, 0.05))) for _ in range(60)]) for s in (2, 20)]
    assert widths[1] > 0.8 * widths[0]


def test_tables_that_say_little():
    same = crossed_mean([[0.5, 0.5], [0.5, 0.5]])
    assert (same.low, same.high, same.p_value) == (0.5, 0.5, 0.0)
    assert crossed_mean(np.zeros((2, 4))).p_value == 1
    assert math.isnan(crossed_mean([[1.0], [2.0]]).low)
    with pytest.raises(SawyerError, match="at least two seeds"):
        crossed_mean([[1.0, 2.0]])
    with pytest.raises(SawyerError, match="finite"):
        crossed_mean([[1.0, math.inf], [0.0, 0.0]])
    with pytest.raises(SawyerError, match="between 0 and 1"):
        crossed_mean([[1.0, 2.0], [0.0, 0.0]], level=1)


PROMPTS, SEEDS = 24, (0, 1, 7)


def rows(seed, policy, gain, tokens):
    rng = np.random.default_rng([seed, ord(policy[0])])
    hard = np.random.default_rng(9).uniform(0.2, 0.6, PROMPTS)
    return [
        {
            "policy": policy,
            "prompt": [{"role": "user", "content": f"What is number {i}?"}],
            "prompt_id": i,
            "sample": k,
            "text": f"It is number {i}, and nothing more than number {i}, as seed {seed} says.",
            "tokens": int(tokens + rng.integers(5)),
            "finished": True,
            "gold": float(hard[i] + gain + rng.normal(0, 0.03)),
            "proxy": None,
            "kl": 0.5,
        }
        for i in range(PROMPTS)
        for k in range(2)
    ]


@pytest.fixture
def several():
    """Evaluations and rows of three seeds: `sft`, and `dpo`, which is better by 0.1 and shorter by ten tokens."""
    found, written = {}, {}
    for seed in SEEDS:
        own = {"sft": rows(seed, "sft", 0.0, 40), "dpo": rows(seed, "dpo", 0.1, 30)}
        evaluation = policies.evaluate(own, "sft", training_seeds=[seed], draws=200)
        found[seed], written[seed] = evaluation, [row for one in own.values() for row in one]
    return found, written


def test_policies_are_compared_over_seeds(several):
    training = {seed: {"dpo": {"seconds": 10.0 + seed} | ({"gold_labels": 8} if seed else {})} for seed in SEEDS}
    together = over_seeds(*several, training=training)
    assert together["seeds"] == list(SEEDS)
    assert together["prompts"] == PROMPTS
    gold = together["policies"]["dpo"]["gold"]
    assert (gold["n"], gold["seeds"], len(gold["by_seed"])) == (PROMPTS, 3, 3)
    assert gold["mean"] == pytest.approx(np.mean([several[0][s]["policies"]["dpo"]["gold"]["mean"] for s in SEEDS]))
    assert {"gold", "kl", "tokens", "finished", "distinct_1", "distinct_2", "repetition"} <= set(
        together["policies"]["dpo"]
    )
    assert "proxy" not in together["policies"]["dpo"]
    (compared,) = together["comparisons"]
    assert compared["roles"] == ["baseline", "previous"]
    assert 0.08 < compared["gold"]["low"] < 0.1 < compared["gold"]["high"] < 0.12
    assert compared["gold"]["p_holm"] < 0.01
    assert compared["tokens"]["high"] < -8
    assert together["policies"]["dpo"]["training"] == {"seconds": pytest.approx(10 + 8 / 3)}
    assert "training" not in together["policies"]["sft"]
    assert together["headline"].startswith("dpo beats sft by +0.1")
    assert "n = 24 prompts, 3 seeds (0, 1, 7)" in together["headline"]
    json.dumps(together, allow_nan=False)


def test_the_order_of_rows_changes_nothing(several):
    found, written = several
    turned = {seed: own[::-1] for seed, own in written.items()}
    assert over_seeds(found, turned) == over_seeds(found, written)


def test_prompts_that_one_seed_lacks_are_left_out_of_all(several):
    found, written = several
    written[1] = [row for row in written[1] if row["prompt_id"] >= 4]
    together = over_seeds(found, written)
    assert (together["prompts"], together["left_out"]) == (PROMPTS - 4, 4)
    assert together["policies"]["dpo"]["gold"]["n"] == PROMPTS - 4


def test_seeds_on_different_prompts_are_no_seeds_of_one_evaluation(several):
    found, written = several
    written[1] = [{**row, "prompt": [{"role": "user", "content": "Another?"}]} for row in written[1]]
    with pytest.raises(SawyerError, match="evaluated on different prompts"):
        over_seeds(found, written)


def test_figures_of_a_prompt_are_those_of_its_samples():
    own = rows(0, "sft", 0.0, 40)
    own[1]["gold"] = float("nan")
    found = prompt_figures(own)
    assert len(found["gold"]) == PROMPTS
    first = next(iter(found["gold"].values()))
    assert first == own[0]["gold"]
    assert "proxy" not in found
    short = prompt_figures([{**own[0], "text": "Yes."}])
    assert "repetition" not in short
    assert list(short["distinct_1"].values()) == [1.0]


def test_best_of_n_over_seeds(several):
    point = lambda row, n: {**row, "n": n, "kl": float(n - 1), "gold": row["gold"] + n}
    curves = {
        seed: [point(row, n) for row in own if row["policy"] == "sft" and row["sample"] == 0 for n in (1, 2)]
        for seed, own in several[1].items()
    }
    points = over_seeds(*several, curves)["best_of_n"]
    assert [(point["n"], point["kl"]) for point in points] == [(1, 0.0), (2, 1.0)]
    assert points[1]["gold"]["mean"] - points[0]["gold"]["mean"] == pytest.approx(1)
    assert "proxy" not in points[0]
    assert "best_of_n" not in over_seeds(*several, {**curves, 7: []})
