"""The benchmarks on a tiny model: both sides compute the same thing, and the report says what it promises.

Times are not tested: they mean nothing on such a model.
"""

import json
import random

import pytest

pytest.importorskip("trl")

from benchmarks import contest, ours, peers, report, sameness, work
from sawyer.errors import SawyerError
from sawyer.trees.tree import TokenTree

BATCH = 2


@pytest.fixture
def job(saved_policy):
    return {
        "model": saved_policy("llama"),
        "precision": "fp32",
        "batch": BATCH,
        "micro_batch": BATCH,
        "padding_free": False,
        "all_pairs": False,
        "token_budget": 4096,
        "learning_rate": 5e-7,
        "seed": 0,
        "threads": 1,
        "profile": False,
    }


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("task", ["dpo", "reward", "sft"])
def test_both_sides_compute_the_same_thing(task, micro_batch, job, tiny_tokenizer):
    make = work.generated_conversations if task == "sft" else work.generated_pairs
    rows = make(3 * BATCH, tiny_tokenizer, 64, seed=1)
    job = {**job, "task": task, "micro_batch": micro_batch}
    results = {"sawyer": ours.run(job, rows), f"trl-{micro_batch}": peers.run(job, rows)}
    verdict = sameness.check(task, "fp32", results, {})
    assert verdict["same"], verdict
    assert all(len(result["losses"]) == len(result["step_seconds"]) == 3 for result in results.values())


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_ranking_is_all_its_pairs_to_trl(micro_batch, job, tiny_tokenizer):
    rows = work.rankings(None, 3 * BATCH, 4, tiny_tokenizer, 64, seed=1)
    job = {**job, "task": "reward", "micro_batch": micro_batch}
    results = {
        "sawyer": ours.run(job, rows),
        "sawyer-pairs": ours.run({**job, "all_pairs": True}, rows),
        f"trl-{micro_batch}": peers.run(job, rows),
    }
    verdict = sameness.check("reward", "fp32", results, {})
    assert verdict["same"], verdict
    assert all(len(result["losses"]) == len(result["step_seconds"]) == 3 for result in results.values())
    luce, pairs = results["sawyer"]["losses"], results["sawyer-pairs"]["losses"]
    assert luce[0] > 2 * pairs[0]  # Plackett-Luce adds three choices up, the pairs are a mean
    results["sawyer"]["values"][0][0] += 0.1
    assert not sameness.check("reward", "fp32", results, {})["same"]


def test_padding_free_trl_computes_the_same_thing(job, tiny_tokenizer):
    rows = work.generated_conversations(2 * BATCH, tiny_tokenizer, 64, seed=2)
    job = {**job, "task": "sft"}
    free = peers.run({**job, "padding_free": True}, rows)
    assert sameness.compare("sft", ours.run(job, rows), free, "fp32")["same"]


@pytest.mark.parametrize("task", ["dpo", "reward"])
def test_rows_packed_out_of_order_keep_their_values(task, job, tiny_tokenizer):
    rows = work.generated_pairs(8, tiny_tokenizer, 64, seed=3)
    job = {**job, "task": task, "batch": 4}
    whole, cut = (ours.run({**job, "token_budget": budget}, rows) for budget in (4096, 64))
    assert sameness.compare(task, whole, cut, "fp32")["same"]


def test_a_different_gradient_is_noticed(job, tiny_tokenizer):
    rows = work.generated_pairs(2 * BATCH, tiny_tokenizer, 64, seed=4)
    one = ours.run({**job, "task": "reward"}, rows)
    for name in ("values", "grad_norms", "losses"):
        other = json.loads(json.dumps(one))
        if name == "values":
            other["values"][0][0] += 0.1
        else:
            other[name][-1] *= 1.5
        assert not sameness.compare("reward", one, other, "fp32")["same"], name
    other = {**one, "losses": [float("nan")] * len(one["losses"])}
    assert not sameness.compare("reward", one, other, "fp32")["same"]


def test_generated_pairs_have_the_lengths_of_hh_rlhf(tiny_tokenizer):
    rows = work.generated_pairs(32, tiny_tokenizer, 512, seed=0)
    means = work.describe(rows)["mean_tokens"]
    better, worse = (sum(len(row["completions"][k]) for row in rows) / 32 for k in (0, 1))
    assert better == pytest.approx(40, abs=2)
    assert worse == pytest.approx(50, abs=2)
    assert means["completion"] == pytest.approx((better + worse) / 2, abs=0.1)
    assert means["prompt"] == pytest.approx(125, abs=12)
    assert all(len(row["prompt"]) + max(map(len, row["completions"])) <= 512 for row in rows)
    assert rows == work.generated_pairs(32, tiny_tokenizer, 512, seed=0)
    assert rows != work.generated_pairs(32, tiny_tokenizer, 512, seed=1)


def test_rankings_take_the_completions_of_the_pairs_around_that_fit(tiny_tokenizer, monkeypatch):
    pairs = [
        {"prompt": [1] * 10, "completions": [[2] * 3, [2] * 4]},
        {"prompt": [1] * 4, "completions": [[2] * 20, [2] * 5]},
        {"prompt": [1] * 20, "completions": [[2] * 6, [2] * 7]},
    ]
    monkeypatch.setattr(work, "generated_pairs", lambda *_: pairs)
    rows = work.rankings(None, 3, 4, tiny_tokenizer, 26, seed=0)
    assert [[len(own) for own in row["completions"]] for row in rows] == [[3, 4, 5, 6], [20, 5, 6, 7], [6, 3, 4, 5]]
    assert [len(row["prompt"]) for row in rows] == [10, 4, 20]
    assert work.rankings(None, 3, 2, tiny_tokenizer, 40, seed=0) == pairs
    assert work.tokens_once(rows[0]) == 10 + 18
    assert work.tokens_in_pairs(rows[0]) == 12 * 10 + 3 * 18


def test_the_largest_batch_warms_up():
    rows = [{"prompt": [1] * n, "completions": [[3], [4]]} for n in (1, 2, 9, 8, 3, 1)]
    warmed = work.with_warm_up(rows, 2)
    assert [len(row["prompt"]) for row in warmed] == [3, 1, 9, 8, 1, 2, 9, 8, 3, 1]
    alone = work.with_warm_up(rows[:2], 2)
    assert [len(row["prompt"]) for row in alone] == [1, 2, 1, 2, 1, 2]


def test_lengths_have_their_mean_whatever_their_number():
    for count in (4, 32, 1000):
        drawn = work.lengths(count, (100, 0.9), 1, 1000, random.Random(0))
        assert sum(drawn) / count == pytest.approx(100, rel=0.05)


def test_step_flops_of_a_linear_model_by_hand(tiny_policy):
    model = tiny_policy("llama")
    tree = TokenTree([1, 2, 3], ([4, 5], [6]))
    config = model.config
    body = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    head = config.vocab_size * config.hidden_size
    visible = (1 + 2 + 3) + (4 + 5) + 4
    by_hand = 6 * (body * 6 + head * 3 + 2 * config.hidden_size * visible * config.num_hidden_layers)
    assert ours.step_flops(model, [tree]) == by_hand


def test_ratios_are_against_the_fastest_and_the_same_batch():
    rows = [{"prompt": [1, 2], "completions": [[3], [4]]}] * 8

    def turn(seconds, memory):
        return {
            "step_seconds": [99.0, 50.0, seconds],
            "peak_memory_mib": memory,
            "reference_seconds": None,
            "step_flops": [0.0, 0.0, 8.0],
        }

    turns = {"sawyer": [turn(2.0, 100)], "trl-1": [turn(3.0, 150)], "trl-8": [turn(8.0, 400)]}
    figures = report.figures(turns, rows, batch=8, peak=8.0)
    assert figures["fastest_peer"] == "trl-1"
    assert figures["speed_ratio"] == 1.5
    assert figures["speed_ratio_same_batch"] == 4.0
    assert figures["memory_ratio"] == 0.25
    assert figures["peak_share"] == 0.5
    assert figures["speed_ratio_same_loss"] is None
    ranked = report.figures({**turns, "sawyer-pairs": [turn(2.5, 100)]}, rows, batch=8, peak=8.0)
    assert ranked["speed_ratio_same_loss"] == 1.2
    assert ranked["fastest_peer"] == "trl-1"
    assert figures["contenders"]["sawyer"]["tokens_per_second"] == 16.0
    assert figures["contenders"]["trl-8"]["tokens_per_second"] == 6.0


def test_in_bf16_each_side_is_held_against_its_own_fp32():
    run = {"values": [[1.0, 0.5, 0.2]], "losses": [1.0], "grad_norms": [1.0]}
    results = {"sawyer": {**run, "losses": [3.0]}, "sawyer-pairs": run, "trl-1": run}
    verdict = sameness.check("reward", "bf16", results, {"sawyer": run, "trl": run})
    assert verdict["same"]
    assert set(verdict["comparisons"]) == {
        "sawyer-pairs = sawyer", "sawyer-pairs = trl-1", "sawyer-pairs = its fp32", "trl-1 = its fp32",
        "sawyer fp32 = trl fp32",
    }  # fmt: skip
    drifted = {"sawyer": {**run, "losses": [1.5]}, "trl": run}
    assert not sameness.check("reward", "bf16", results, drifted)["same"]


def test_where_nothing_is_trained_a_peers_own_rounding_does_not_decide():
    exact, rounded = {"values": [[1.0, 0.5]]}, {"values": [[1.3, 0.5]]}
    results, truths = {"sawyer": exact, "transformers-4": rounded}, {"sawyer": exact, "transformers": exact}
    verdict = sameness.check("reward", "bf16", results, truths, sameness.VALUES)
    assert verdict["same"]
    told = verdict["comparisons"]["transformers-4 = its fp32"]
    assert not told["same"]
    assert not told["decides"]
    ours_rounds = {"sawyer": rounded, "transformers-4": exact}
    assert not sameness.check("reward", "bf16", ours_rounds, truths, sameness.VALUES)["same"]
    other_model = {"sawyer": exact, "transformers": rounded}
    assert not sameness.check("reward", "bf16", results, other_model, sameness.VALUES)["same"]
    assert not sameness.check("reward", "fp32", results, {}, sameness.VALUES)["same"]


def test_a_missing_peer_is_one_sentence_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert contest.main("dpo", ["--peer", "trl"]) == 2
    assert capsys.readouterr().err.strip() == str(_raised(lambda: peers.require("trl")))
    assert "bench" in str(_raised(lambda: peers.require("trl")))


def test_sizes_that_do_not_divide_are_refused(capsys):
    assert contest.main("dpo", ["--batch", "8", "--micro-batches", "3"]) == 2
    assert contest.main("dpo", ["--batch", "8", "--pairs", "12"]) == 2
    assert contest.main("reward", ["--ranking", "3", "--batch", "8", "--micro-batches", "5"]) == 2
    assert "the 24 pairs of an update" in capsys.readouterr().err
    assert contest.main("reward", ["--ranking", "1"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("ranking", ["2", "3"])
def test_the_command_writes_its_figures(ranking, saved_policy, tmp_path, capsys, here):
    apart = here(lambda job: ranking == "3" and job["contender"] == "trl")
    file = tmp_path / "figures.json"
    sizes = ["--pairs", "4", "--batch", "2", "--rounds", "1", "--micro-batches", "2", "--max-length", "64",
             "--ranking", ranking]  # fmt: skip
    assert (
        contest.main(
            "reward", ["--model", saved_policy("llama"), *sizes, "--threads", "1", "--profile", "--json", str(file)]
        )
        == 0
    )
    assert len(apart) == (ranking == "3")
    written = json.loads(file.read_text())
    ratios = {"speed_ratio", "speed_ratio_same_batch", "memory_ratio", "peak_share"}
    assert written.keys() >= ratios | {"command", "versions", "hardware", "precision", "n", "sameness", "contenders"}
    assert written["sameness"]["same"]
    assert (written["speed_ratio_same_loss"] is None) == (ranking == "2")
    assert written["contenders"]["sawyer"]["peak_memory_mib"] > 100
    shown = capsys.readouterr().out
    assert "times as fast as TRL" in shown
    assert "Self CPU" in shown  # the profile


def _raised(call):
    with pytest.raises(SawyerError) as caught:
        call()
    return caught.value
