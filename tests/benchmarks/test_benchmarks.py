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
    assert means["chosen"] == pytest.approx(40, abs=2)
    assert means["rejected"] == pytest.approx(50, abs=2)
    assert means["prompt"] == pytest.approx(125, abs=12)
    assert all(len(r["prompt"]) + max(len(r["chosen"]), len(r["rejected"])) <= 512 for r in rows)
    assert rows == work.generated_pairs(32, tiny_tokenizer, 512, seed=0)
    assert rows != work.generated_pairs(32, tiny_tokenizer, 512, seed=1)


def test_the_largest_batch_warms_up():
    rows = [{"prompt": [1] * n, "chosen": [3], "rejected": [4]} for n in (1, 2, 9, 8, 3, 1)]
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
    rows = [{"prompt": [1, 2], "chosen": [3], "rejected": [4]}] * 8

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
    assert figures["contenders"]["sawyer"]["tokens_per_second"] == 16.0
    assert figures["contenders"]["trl-8"]["tokens_per_second"] == 6.0


def test_a_missing_peer_is_one_sentence_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert contest.main("dpo", ["--peer", "trl"]) == 2
    assert capsys.readouterr().err.strip() == str(_raised(lambda: peers.require("trl")))
    assert "bench" in str(_raised(lambda: peers.require("trl")))


def test_sizes_that_do_not_divide_are_refused(capsys):
    assert contest.main("dpo", ["--batch", "8", "--micro-batches", "3"]) == 2
    assert contest.main("dpo", ["--batch", "8", "--pairs", "12"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_its_figures(saved_policy, tmp_path, capsys):
    file = tmp_path / "figures.json"
    sizes = ["--pairs", "4", "--batch", "2", "--rounds", "1", "--micro-batches", "2", "--max-length", "64"]
    assert (
        contest.main(
            "reward", ["--model", saved_policy("llama"), *sizes, "--threads", "1", "--profile", "--json", str(file)]
        )
        == 0
    )
    written = json.loads(file.read_text())
    ratios = {"speed_ratio", "speed_ratio_same_batch", "memory_ratio", "peak_share"}
    assert written.keys() >= ratios | {"command", "versions", "hardware", "precision", "n", "sameness", "contenders"}
    assert written["sameness"]["same"]
    assert written["contenders"]["sawyer"]["peak_memory_mib"] > 100
    shown = capsys.readouterr().out
    assert "times as fast as TRL" in shown
    assert "Self CPU" in shown  # the profile


def _raised(call):
    with pytest.raises(SawyerError) as caught:
        call()
    return caught.value
