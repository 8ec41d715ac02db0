"""The whole workflow, by its real stages, on a tiny random model: as the README has it, only smaller."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.lives import in_two_processes
from tests.nursery import Nursery

ROOT = Path(__file__).parents[2]


def recipe(model: str, precision: str = "fp32", **changes) -> dict:
    small = {"learning_rate": 1e-3, "batch_size": 4, "max_tokens": 250, "max_dropped": 0.9, "checkpoint_every": 1}
    sampling = {"max_tokens": 12}
    source = {"source": "verifiable", "seed": 3}
    stages = {
        "demonstrations": {
            "stage": "data",
            "parts": {
                "train": {**source, "split": "train", "n": 12, "form": "demonstrations"},
                "validation": {**source, "split": "validation", "n": 4, "form": "demonstrations"},
            },
        },
        "prompts": {
            "stage": "data",
            "parts": {name: {**source, "split": name, "n": 8} for name in ("train", "validation", "test")},
        },
        "sft": {"model": "base", "data": "demonstrations", "validation": "validation", **small},
        "answers": {
            "stage": "generate", "model": "sft", "data": "prompts", "parts": ["train", "validation"],
            "n": 3, "sampling": sampling,
        },
        "labels": {"stage": "label", "data": "answers", "pairs": 2, "temperature": 0.05},
        "reward": {"model": "sft", "data": "labels", "validation": "validation", **small},
        "dpo": {"model": "sft", "data": "labels", **small},
        "iterate": {
            "model": "sft", "data": "prompts", "reward": "reward", "iterations": 2, "prompts": 6, "n": 3,
            "validation_prompts": 4, "sampling": sampling, "learning_rate": 1e-3, "batch_size": 4,
            "checkpoint_every": 1, "pairs": {"length_penalty": 0.001},
        },
        "evaluate": {
            "policies": ["base", "sft", "dpo", "iterate"], "data": "prompts", "n": 2, "sampling": sampling,
            "gold": "verifiable", "proxy": "reward", "reference": "sft",
        },
    }  # fmt: skip
    for name, change in changes.items():
        stages[name].update(change)
    return {"name": "tiny", "model": model, "precision": precision, "stages": stages}


@pytest.fixture
def tiny_recipe(tmp_path, saved_policy):
    def write(**changes) -> Path:
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump(recipe(saved_policy("llama"), **changes), sort_keys=False))
        return file

    return write


def contents(run: Path) -> dict[str, str]:
    """The content hash of every artifact of a run."""
    return {
        manifest.parent.name: json.loads(manifest.read_text())["content"]["sha256"]
        for manifest in sorted(run.glob("*/manifest.json"))
    }


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not (name in ("src", "href") and (value or "").startswith(("http", "//"))), value


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.stop()


def sawyer(*arguments: str | Path, cwd: Path) -> None:
    """The command in a process that is started anew."""
    done = subprocess.run(
        [sys.executable, "-m", "sawyer", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, policy_files):
    """The recipe and `out`, the run that was made of it, in a folder that no test may change."""
    place = tmp_path_factory.mktemp("whole")
    (place / "tiny.yaml").write_text(yaml.safe_dump(recipe(str(policy_files("llama", 0))), sort_keys=False))
    sawyer("run", "tiny.yaml", "--out", "out", cwd=place)
    return place


@pytest.mark.slow
def test_the_whole_workflow_runs_and_reports(whole_run, tmp_path, monkeypatch, command):
    run = shutil.copytree(whole_run, tmp_path / "own") / "out"
    summary = json.loads((run / "summary.json").read_text())
    assert [stage["state"] for stage in summary["stages"].values()] == ["finished"] * 9

    evaluation = json.loads((run / "evaluate" / "evaluation.json").read_text())
    assert evaluation["order"] == ["base", "sft", "dpo", "iterate-1", "iterate-2"]
    for figures in evaluation["policies"].values():
        for name in ("gold", "proxy", "kl", "tokens", "finished"):
            assert figures[name]["low"] <= figures[name]["mean"] <= figures[name]["high"]
            assert figures[name]["n"] == 8
    assert evaluation["policies"]["sft"]["kl"]["mean"] == pytest.approx(0, abs=1e-4)

    report = (run / "report.html").read_text()
    seen = Seen()
    seen.feed(report)
    assert seen.tags.count("svg") >= 4
    assert "sawyer run" in report
    for said in ("n = 8 prompts x 2 samples", f"drawn with seed {evaluation['generation_seed']}", "unbiased estimate"):
        assert said in report

    monkeypatch.chdir(run.parent)
    code, out, err = command("run", "tiny.yaml", "--out", "out")
    assert code == 0
    assert err.count("done already") == 9
    assert out.count("running") == err.count("running") == 0

    _, shown, _ = command("show", "out", "--json")
    assert json.loads(shown)["stages"]["evaluate"]["figures"]["headline"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "stages"),
    [("fp32", ["sft", "answers", "reward", "iterate", "evaluate"]), ("bf16", ["iterate"])],
)
def test_a_run_killed_in_several_stages_ends_in_the_same_bits(
    request, nursery, tiny_recipe, tmp_path, precision, stages
):
    file = tiny_recipe(precision=precision)
    if precision == "fp32":
        whole = request.getfixturevalue("whole_run") / "out"
    else:
        whole = tmp_path / "whole"
        sawyer("run", file, "--out", whole, cwd=tmp_path)

    moments = random.SystemRandom()
    hits = []
    for stage in stages:
        process = nursery.start("run", file, "--out", "broken", cwd=tmp_path)
        while not (tmp_path / "broken" / ".work" / stage / "state.json").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        process.wait()
        hits += [work.parent.name for work in (tmp_path / "broken" / ".work").glob("*/state.json")]
    assert len(set(hits)) >= (len(stages) + 1) // 2, hits
    code, _, err = nursery.run("run", file, "--out", "broken", cwd=tmp_path)
    assert code == 0, err
    assert contents(tmp_path / "broken") == contents(whole)
    for metrics in whole.glob("*/metrics.jsonl"):
        broken = tmp_path / "broken" / metrics.parent.name / "metrics.jsonl"
        assert steps(broken) == steps(metrics)


def steps(metrics: Path) -> list[tuple]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(line.get("iteration"), line.get("step"), line.get("loss")) for line in lines]


@pytest.mark.slow
def test_two_processes_end_where_one_does(tiny_recipe, tmp_path, command):
    file = tiny_recipe(sft={"token_budget": 256}, reward={"token_budget": 256}, iterate={"token_budget": 256})
    code, _, err = command("run", file, "--out", tmp_path / "one")
    assert code == 0, err
    in_two_processes(["-m", "sawyer", "run", str(file), "--out", "two"], tmp_path)
    for stage in ("sft", "reward", "iterate"):
        a, b = (load_file(tmp_path / run / stage / "model.safetensors") for run in ("one", "two"))
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_adapters_train_and_are_saved_merged_and_alone(tiny_recipe, tmp_path, command):
    from transformers import AutoModelForCausalLM

    lora = {"lora": {"r": 2}}
    file = tiny_recipe(sft=lora, reward=lora, iterate={**lora, "learning_rate": 1e-2})
    code, _, err = command("run", file, "--out", tmp_path / "out", "--set", "stages.evaluate.policies=[base, sft]")
    assert code == 0, err
    sft = load_file(tmp_path / "out" / "sft" / "model.safetensors")
    for folder in ("sft", "iterate", "iterate/iterates/1"):
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / folder)
        assert not any("lora" in name for name, _ in merged.named_parameters())
        assert (tmp_path / "out" / folder / "adapter" / "adapter_model.safetensors").exists()
    iterate = load_file(tmp_path / "out" / "iterate" / "model.safetensors")
    changed = {name for name in sft if not torch.equal(sft[name], iterate[name])}
    assert changed == {name for name in sft if name.endswith("_proj.weight")}  # what `all-linear` adapts


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sft": {"data": "prompts"}}, "needs"),
        ({"sft": {"part": "trian"}}, "has no part 'trian'"),
        ({"sft": {"max_dropped": 0.0, "max_tokens": 60}}, "longer than max_tokens 60"),
        ({"answers": {"sampling": {"max_tokens": 250}}}, "context"),
        ({"evaluate": {"sampling": {"temprature": 1.0}}}, "did you mean 'temperature'"),
        ({"iterate": {"reward": "sft"}}, "reward"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tiny_recipe, tmp_path, command, change, sentence):
    code, _, err = command("run", tiny_recipe(**change), "--out", tmp_path / "out")
    assert code == 2, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "empty"),
        ('{"messages": [{"role": "user", "content": "hi"}', "line"),
        (
            '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: a\\n\\nAssistant: b"}\n',
            "the two answers are the same",
        ),
        ('{"text": "no prompt here"}\n', "plain text"),
        (None, "data.jsonl"),
    ],
)
def test_bad_data_is_refused_before_any_model_is_loaded(tmp_path, saved_policy, command, text, sentence):
    data = tmp_path / "data.jsonl"
    if text is not None:
        data.write_text(text)
    stages = {
        "data": {"source": {"source": "file", "path": str(data)}, "view": "conversations"},
        "sft": {"model": "base", "data": "data"},
    }
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump({"name": "bad", "model": saved_policy("llama"), "stages": stages}, sort_keys=False))
    began = time.monotonic()
    code, _, err = command("run", file, "--out", tmp_path / "out")
    assert code == 2, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence.lower() in errors[0].lower(), errors[0]
    assert time.monotonic() - began < 60
    assert not (tmp_path / "out" / "data").exists()


def test_a_folder_that_is_no_model_is_refused(tmp_path, command):
    (tmp_path / "nothing").mkdir()
    stages = {"data": {"source": {"source": "verifiable", "n": 4}}, "answers": {"stage": "generate", "model": "base",
              "data": "data"}}  # fmt: skip
    file = tmp_path / "bad.yaml"
    file.write_text(
        yaml.safe_dump({"name": "bad", "model": str(tmp_path / "nothing"), "stages": stages}, sort_keys=False)
    )
    code, _, err = command("run", file, "--out", tmp_path / "out")
    assert code == 2
    assert "config.json" in err
    assert not (tmp_path / "out" / "data").exists()
