"""One recipe with several seeds: toy stages, and an evaluation that depends on the seed."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import toys

from sawyer.errors import SawyerError
from sawyer.evals import policies
from sawyer.pipeline import stage as stage_module
from sawyer.pipeline.files import write_json
from sawyer.pipeline.seeds import PAGE, SEEDS, parse_seeds, place, read_seeds, run_seeds
from sawyer.pipeline.stage import Ref, Stage
from sawyer.settings import Settings

RECIPE = """\
name: several
title: two policies
model: tiny
stages:
  data: {source: verifiable}
  sft: {model: base, data: data}
  dpo: {model: sft, data: data}
  judged: {models: [sft, dpo]}
"""


class Judged(Settings):
    models: list[Annotated[str, Ref("policy")]]
    gain: float = 0.1


def judge(settings, context):
    toys.calls.append(context.name)
    rng = np.random.default_rng(context.seed)
    shift = rng.normal(0, 0.01)
    rows = [
        {
            "policy": name, "prompt_id": i, "prompt": [{"role": "user", "content": f"<b>{i}</b>?"}], "sample": 0,
            "text": "words that say nothing at all", "tokens": 20, "finished": True, "proxy": None, "kl": 0.1 * place,
            "gold": float(0.3 + 0.01 * i + settings.gain * place + shift + rng.normal(0, 0.01)),
        }
        for place, name in enumerate(settings.models)
        for i in range(10)
    ]  # fmt: skip
    by_policy = {name: [row for row in rows if row["policy"] == name] for name in settings.models}
    drawn = {"generation_seed": context.seed, "sampling": {}, "kl_unbiased": True, "unanswered": 0}
    evaluation = policies.evaluate(by_policy, settings.models[0], draws=100) | drawn
    write_json(context.folder / "evaluation.json", evaluation)
    (context.folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {}


@pytest.fixture(autouse=True)
def judged():
    with stage_module.register(*toys.TOYS, Stage("judged", Judged, judge, makes="evaluation")):
        yield


@pytest.fixture
def several(tmp_path):
    file = tmp_path / "several.yaml"
    file.write_text(RECIPE)

    def run(seeds, *overrides, out="out"):
        toys.calls.clear()
        return run_seeds(file, overrides, seeds, out, report=lambda folder: None), list(toys.calls)

    return run


ALL = ["data", "sft", "dpo", "judged"]


@pytest.mark.parametrize(("text", "seeds"), [("0,1,2", [0, 1, 2]), ("3", [0, 1, 2]), (" 7, 3 ", [7, 3]), ("2", [0, 1])])
def test_a_list_or_how_many(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no list of seeds"), (" ", "is no list"), ("0,,1", "is no list"), ("one", "is no list"),
        ("-1,2", "is no list"), ("1.5", "is no list"), ("0,1,0", "names the seed 0 twice"), ("1", "names no two seeds"),
        ("0", "names no two seeds"),
    ],
)  # fmt: skip
def test_bad_lists_are_one_sentence(text, message):
    with pytest.raises(SawyerError, match=message):
        parse_seeds(text)


def test_each_seed_is_a_run_of_its_own_and_together_they_have_intervals(several):
    folder, ran = several([0, 1, 5])
    assert ran == ALL * 3
    assert sorted(path.name for path in folder.iterdir()) == ["seed-0", "seed-1", "seed-5", PAGE, SEEDS]
    for seed in (0, 1, 5):
        manifest = json.loads((place(folder, seed) / "sft" / "manifest.json").read_text())
        assert manifest["recipe_seed"] == seed
    found = read_seeds(folder)
    assert (found["recipe"], found["seeds"]) == ("several", [0, 1, 5])
    together = found["evaluations"]["judged"]
    (compared,) = together["comparisons"]
    assert compared["gold"]["low"] < compared["gold"]["mean"] < compared["gold"]["high"]
    assert compared["gold"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert len(compared["gold"]["by_seed"]) == 3
    assert together["policies"]["sft"]["training"]["seconds"] >= 0
    page = (folder / PAGE).read_text()
    assert together["headline"] in page
    assert page.count("<svg") == 3


def test_finished_seeds_are_skipped_and_others_added(several):
    several([0, 1])
    folder, ran = several([0, 1, 2])
    assert ran == ALL
    assert read_seeds(folder)["seeds"] == [0, 1, 2]
    assert several([0, 1, 2])[1] == []


def test_a_changed_setting_runs_again_what_depends_on_it_in_every_seed(several):
    several([0, 1])
    folder, ran = several([0, 1], "stages.judged.gain=0.3")
    assert ran == ["judged", "judged"]
    found = read_seeds(folder)["evaluations"]["judged"]["comparisons"][0]["gold"]
    assert found["mean"] == pytest.approx(0.3, abs=0.02)


def test_a_seed_that_failed_is_continued(several):
    with pytest.raises(SawyerError, match="too bold"):
        several([0, 1], "stages.dpo.trouble=mistake")
    folder, ran = several([0, 1])
    assert ran == ["dpo", "judged", *ALL]
    assert (folder / SEEDS).is_file()


def test_without_an_evaluation_the_runs_are_there_and_nothing_is_averaged(several, tmp_path):
    (tmp_path / "several.yaml").write_text(RECIPE.rpartition("  judged")[0])
    folder, _ = several([0, 1])
    assert read_seeds(folder)["evaluations"] == {}


def test_folders_of_something_else_are_refused_before_anything_runs(several, tmp_path, recipe_file):
    several([0, 1])
    with pytest.raises(SawyerError, match="has the seeds of the recipe 'several', not of 'toy'"):
        run_seeds(recipe_file, [], [0, 1], "out")
    other = Path("other") / "seed-1"
    other.parent.mkdir()
    (Path("out") / "seed-1").rename(other)
    with pytest.raises(SawyerError, match="seed-1 is a run of the recipe 'several', not of 'toy'"):
        run_seeds(recipe_file, [], [0, 1], "other")
    with pytest.raises(SawyerError, match="is a single run"):
        several([0, 1], out=other)
    Path("mine").mkdir()
    (Path("mine") / "letter.txt").write_text("dear")
    with pytest.raises(SawyerError, match=r"has other files in it \(letter.txt\)"):
        several([0, 1], out="mine")
    with pytest.raises(SawyerError, match="is a file"):
        several([0, 1], out=recipe_file)
    assert toys.calls == []


def test_a_seed_among_the_settings_contradicts_the_list(several):
    with pytest.raises(SawyerError, match="leave out --set seed="):
        several([0, 1], "seed=3")


def test_a_folder_without_a_result_says_so(tmp_path):
    with pytest.raises(SawyerError, match=r"has no seeds.json"):
        read_seeds(tmp_path)


def test_the_command_prints_policies_and_differences(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "several.yaml").write_text(RECIPE)
    code, out, err = command("run", "several.yaml", "--seeds", "2", "--out", "here")
    assert code == 0
    assert "here: 2 seeds. two policies" in out
    assert "10 prompts x 2 seeds, 95 % intervals over both" in out
    assert "gold +0." in out
    assert "seed 1 (2 of 2)" in err
    code, out, _ = command("run", "several.yaml", "--seeds", "0,1", "--out", "here", "--json")
    assert json.loads(out)["evaluations"]["judged"]["policies"]["dpo"]["gold"]["seeds"] == 2
    assert command("run", "several.yaml", "--seeds", "0,0")[0] == 2
    assert command("run", "several.yaml", "--seeds", "2", "--check")[1].startswith("nothing is wrong")
    assert not Path("runs").exists()
    command("run", "several.yaml", "--seeds", "2")
    assert (Path("runs") / "several-seeds" / SEEDS).is_file()
    shown = command("show", "several-seeds")
    assert shown == command("show", "runs/several-seeds")
    assert "runs/several-seeds: 2 seeds" in shown[1]
    assert json.loads(command("show", "several-seeds", "--json")[1])["seeds"] == [0, 1]
    assert "seed-1: finished" in command("show", "runs/several-seeds/seed-1")[1]
