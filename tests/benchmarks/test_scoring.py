"""The scoring benchmark on a tiny model, and its bookkeeping on made-up times."""

import json

import pytest

from benchmarks import measure, scorers, scoring, work


@pytest.fixture
def rows(tiny_tokenizer):
    return work.rankings(None, 4, 3, tiny_tokenizer, 64, seed=1)


@pytest.fixture
def job(saved_policy):
    return {
        "contender": "sawyer", "task": "scoring", "model": saved_policy("llama"), "precision": "fp32",
        "token_budget": 4096, "micro_batch": None, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 5, 32])
def test_both_sides_give_the_same_rewards_whatever_the_batch(size, job, rows):
    ours = scorers.run({**job, "token_budget": 100}, rows)
    theirs = scorers.run({**job, "contender": "transformers", "micro_batch": size}, rows)
    assert [len(own) for own in ours["values"]] == [3] * 4
    for own, their in zip(ours["values"], theirs["values"], strict=True):
        assert own == pytest.approx(their, abs=1e-5)
    assert min(ours["seconds"], theirs["seconds"]) > 0


def test_in_bf16_both_sides_are_near(job, rows):
    job = {**job, "precision": "bf16"}
    ours = scorers.run(job, rows)["values"]
    theirs = scorers.run({**job, "contender": "transformers", "micro_batch": 4}, rows)["values"]
    for own, their in zip(ours, theirs, strict=True):
        assert own == pytest.approx(their, abs=0.1)
    assert ours != theirs


@pytest.fixture
def made_up(monkeypatch):
    """Contenders of known speed and rewards."""
    seconds = {"sawyer": [9.0, 2.0, 4.0], "transformers-1": [7.0], "transformers-4": [6.0, 8.0, 10.0]}
    rewards = {"sawyer": 1.0, "transformers": 1.0}

    def answer(job):
        name = job["contender"] + (f"-{job['micro_batch']}" if job["micro_batch"] else "")
        memory = 100.0 if name == "sawyer" else 400.0
        once = 5.0 if job["precision"] == "fp32" else seconds[name].pop(0)
        return {"seconds": once, "peak_memory_mib": memory, "values": [[rewards[job["contender"]], 0.5]]}

    monkeypatch.setattr(measure, "in_own_process", answer)
    return rewards


def written(tmp_path, model, *options):
    file = tmp_path / "figures.json"
    sizes = ["--prompts", "4", "--n", "3", "--max-length", "64", "--threads", "1"]
    code = scoring.main(["--model", model, *sizes, "--json", str(file), *options])
    return code, json.loads(file.read_text())


def test_the_peer_counts_at_its_fastest_batch(made_up, saved_policy, tmp_path):
    options = ["--precision", "bf16", "--batches", "1,4", "--rounds", "2"]
    code, figures = written(tmp_path, saved_policy("llama"), *options)
    assert code == 0
    assert figures["fastest_peer"] == "transformers-4"
    assert figures["speed_ratio"] == 3.0
    assert figures["memory_ratio"] == 0.25
    assert figures["tried_once"].keys() == {"sawyer", "transformers-1", "transformers-4"}
    assert figures["contenders"]["sawyer"]["completions_per_second"] == 4.0
    ours, theirs = (figures["contenders"][name]["tokens_per_second"] for name in ("sawyer", "transformers-4"))
    assert 0 < theirs < ours  # three times as long for less than three times the tokens
    assert figures.keys() >= {"command", "versions", "hardware", "precision", "work", "sameness"}


def test_sides_that_differ_are_not_timed(made_up, saved_policy, tmp_path, capsys):
    made_up["transformers"] = 1.5
    code, figures = written(tmp_path, saved_policy("llama"), "--precision", "bf16", "--batches", "4")
    assert code == 1
    assert figures["speed_ratio"] is figures["memory_ratio"] is None
    assert figures["contenders"] == {}
    assert "do not give the same rewards" in capsys.readouterr().err


def test_mistakes_are_one_sentence(capsys):
    for mistake in (["--peer", "trl"], ["--batches", "1,a"], ["--batches", "0"], ["--n", "1"], ["--rounds", "0"]):
        assert scoring.main(mistake) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_the_command_scores(saved_policy, tmp_path, capsys, here):
    here()
    rows = [
        {side: f"\n\nHuman: Question {i}?\n\nAssistant: {side} {i}" for side in ("chosen", "rejected")}
        for i in range(4)
    ]
    data = tmp_path / "hh.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--data", str(data), "--batches", "2", "--rounds", "1", "--profile"]
    code, figures = written(tmp_path, saved_policy("llama"), *options)
    assert code == 0
    assert figures["speed_ratio"] > 0
    assert figures["sameness"]["same"]
    assert figures["data"] == "hh.jsonl"
    assert figures["contenders"]["sawyer"]["peak_memory_mib"] > 100
    shown = capsys.readouterr().out
    assert "times as fast as transformers-2" in shown
    assert "Self CPU" in shown
