"""The recipes for real preference data, on dialogues in HH-RLHF's format and a tiny model."""

import gzip
import json
import random
from pathlib import Path

import pytest

from sawyer.data.files import read_records

WORDS = ["river", "town", "bridge", "light", "paper", "stone", "water", "music", "garden", "letter", "winter", "bread"]
SMALL = {
    "batch_size": 8,
    "max_tokens": 250,
    "learning_rate": 0.001,
}


def write_pairs(file: Path, count: int) -> None:
    draw = random.Random(0)

    def some(n: int) -> str:
        return " ".join(draw.choices(WORDS, k=n))

    with gzip.open(file, "wt") as handle:
        for i in range(count):
            prompt = f"\n\nHuman: {some(3)} {i}?"
            if i % 3 == 0:
                prompt += f"\n\nAssistant: {some(2)}\n\nHuman: {some(2)}?"
            chosen, rejected = some(4), some(6)
            row = {"chosen": f"{prompt}\n\nAssistant: {chosen}", "rejected": f"{prompt}\n\nAssistant: {rejected}"}
            handle.write(json.dumps(row) + "\n")


@pytest.mark.slow
def test_the_hh_recipe_runs_from_local_files(tmp_path, saved_policy, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "hh.jsonl.gz", 80)
    settings = {"model": saved_policy("llama"), "stages.pairs.source.path": "hh.jsonl.gz", "precision": "fp32"}
    for stage in ("sft", "reward", "judge", "dpo"):
        settings |= {f"stages.{stage}.{name}": value for name, value in SMALL.items()}
    settings |= {
        "stages.pairs.split": "{train: 0.4, judge: 0.3, validation: 0.1, test: 0.2}",
        "stages.iterate.prompts": 6,
        "stages.iterate.sampling.max_tokens": 8,
        "stages.evaluate.sampling.max_tokens": 8,
    }
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    code, _, err = command("run", "hh", *options, "--out", "out")
    assert code == 0, err
    evaluation = json.loads((tmp_path / "out" / "evaluate" / "evaluation.json").read_text())
    assert evaluation["order"] == ["sft", "base", "dpo", "iterate-1", "iterate-2", "iterate-3"]
    assert "win_rate" in json.dumps(evaluation["comparisons"])
    judge = json.loads((tmp_path / "out" / "judge" / "evaluation.json").read_text())
    assert judge["accuracy"]["n"] > 0


def test_a_part_to_calibrate_on_that_is_not_there_is_found_before_the_run(tmp_path, saved_policy, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "hh.jsonl.gz", 10)
    settings = {"model": saved_policy("llama"), "stages.pairs.source.path": "hh.jsonl.gz"}
    settings["stages.reward.calibrate"] = "dev"
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    code, _, err = command("run", "reward-hh", *options, "--check")
    assert code == 2
    assert "stages.reward.calibrate: 'pairs' has no part 'dev'; its parts are train, validation, test" in err


@pytest.mark.slow
def test_the_reward_recipe_measures_on_prompts_apart(tmp_path, saved_policy, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "hh.jsonl.gz", 80)
    settings = {"model": saved_policy("llama"), "stages.pairs.source.path": "hh.jsonl.gz", "precision": "fp32"}
    settings |= {f"stages.reward.{name}": value for name, value in SMALL.items()}
    settings["stages.pairs.split"] = "{train: 0.5, validation: 0.2, test: 0.3}"
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    code, _, err = command("run", "reward-hh", *options, "--out", "out")
    assert code == 0, err
    stages = json.loads((tmp_path / "out" / "summary.json").read_text())["stages"]
    parts, held_out = stages["pairs"]["figures"], stages["reward"]["figures"]["held_out"]
    assert held_out["pairs"] == parts["test"]
    calibration = held_out["calibration"]
    assert (calibration["fitted_on"], calibration["measured_on"]) == (parts["validation"], parts["test"])
    figures = [held_out["accuracy"], held_out["longer_wins"], held_out["log_loss"]]
    figures += [calibration[f"{name}_{when}"] for name in ("ece", "brier", "log_loss") for when in ("before", "after")]
    assert all(figure["low"] <= figure["mean"] <= figure["high"] for figure in figures)
    report = (tmp_path / "out" / "report.html").read_text()
    assert 'aria-label="Calibration of the reward model of stage reward"' in report
    assert f"fitted on {parts['validation']} other pairs" in report
    prompts = {
        part: {json.dumps(record.prompt) for record in read_records(tmp_path / "out" / "pairs" / f"{part}.jsonl")}
        for part in ("train", "validation", "test")
    }
    assert not prompts["test"] & (prompts["train"] | prompts["validation"])
    assert not prompts["train"] & prompts["validation"]
