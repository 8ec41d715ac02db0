import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "pipeline"))

import toys

import sawyer
from sawyer.pipeline import stage as stage_module


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch, tmp_path):
    monkeypatch.setattr(stage_module, "_discovered", dict)
    monkeypatch.setattr("sawyer.pipeline.run.write_report", lambda run: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "toy.yaml").write_text(toys.RECIPE)
    toys.write_models(tmp_path)
    toys.calls.clear()
    with stage_module.register(*toys.TOYS):
        yield


def test_run_prints_a_table_and_says_what_it_does(command):
    code, out, err = command("run", "toy.yaml")
    assert code == 0
    assert "runs/toy: finished" in out
    assert "sft: running" in err
    assert max(len(line) for line in out.splitlines()) <= 80


def test_run_as_json_prints_nothing_else(command):
    code, out, _ = command("run", "toy.yaml", "--json", "--out", "here", "--set", "stages.sft.epochs=3")
    summary = json.loads(out)
    assert code == 0
    assert summary["folder"] == "here"
    assert summary["stages"]["sft"]["state"] == "finished"


def test_show_takes_a_folder_or_a_name(command):
    command("run", "toy.yaml")
    for name in ("toy", "runs/toy"):
        code, out, _ = command("show", name)
        assert code == 0
        assert "evaluate" in out
        assert max(len(line) for line in out.splitlines()) <= 80
    assert json.loads(command("show", "toy", "--json")[1])["state"] == "finished"


def test_show_of_no_run_names_the_nearest(command):
    command("run", "toy.yaml")
    assert command("show", "toi") == (2, "", "error: toi is no run; did you mean 'toy'?\n")


def test_a_mistake_is_one_sentence_and_exit_code_2(command):
    code, out, err = command("run", "toy.yaml", "--set", "stages.sft.learning_rte=1")
    assert (code, out) == (2, "")
    assert err == (
        "error: --set stages.sft.learning_rte: stages.sft has no setting 'learning_rte'; "
        "did you mean 'learning_rate'?\n"
    )
    assert not Path("runs").exists()


def test_a_failing_stage_says_which_and_keeps_the_others(command):
    code, _, err = command("run", "toy.yaml", "--set", "stages.dpo2.trouble=mistake")
    assert code == 2
    assert err.splitlines()[-1] == "error: stage 'dpo2': the learning rate is too bold; lower it"
    out = command("show", "toy")[1]
    assert "failed" in out
    assert "waiting" in out


def test_an_interrupt_says_how_to_continue(command, monkeypatch):
    def interrupted(settings, context):
        raise KeyboardInterrupt

    with stage_module.register(stage_module.Stage("sft", toys.TrainSettings, interrupted, makes="policy")):
        code, _, err = command("run", "toy.yaml")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted: run the same command again to continue where it stopped"
    assert command("run", "toy.yaml")[0] == 0


def test_a_bug_keeps_its_traceback(command):
    with pytest.raises(RuntimeError, match="a bug"):
        command("run", "toy.yaml", "--set", "stages.dpo2.trouble=bug")


def test_recipes_lists_name_title_and_stages(command, monkeypatch, tmp_path):
    monkeypatch.setattr("sawyer.pipeline.recipe.bundled_recipes", lambda: [tmp_path / "toy.yaml"])
    code, out, _ = command("recipes")
    assert code == 0
    assert "integers all the way" in out
    listed = json.loads(command("recipes", "--json")[1])
    assert listed[0]["stages"] == ["data", "sft", "reward", "dpo2", "evaluate"]


def test_losses_lists_formula_needs_options_and_paper(command):
    code, out, _ = command("losses")
    assert code == 0
    assert "simpo" in out
    assert "2405.14734" in out
    listed = {loss["name"]: loss for loss in json.loads(command("losses", "--json")[1])}
    assert listed["dpo"]["needs"] == ["pairs", "reference"]
    assert listed["simpo"]["options"] == {"beta": 2.0, "gamma": 1.0}
    assert listed["aot"]["over_rows"]
    assert not listed["dpo"]["over_rows"]
    (one,) = json.loads(command("losses", "kto", "--json")[1])
    assert one["needs"] == ["labelled", "reference"]
    code, _, err = command("losses", "simp0")
    assert code == 2
    assert err == "error: there is no loss called 'simp0'; did you mean 'simpo'?\n"


def test_the_report_opens_when_asked(command, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    command("run", "toy.yaml")
    Path("runs/toy/report.html").write_text("<html>")
    command("run", "toy.yaml", "--open")
    assert opened == [Path("runs/toy/report.html").resolve().as_uri()]


def test_version_and_wrong_usage(command):
    assert command("--version")[:2] == (0, f"sawyer {sawyer.__version__}\n")
    assert command("run")[0] == 2
    assert command("rn", "toy")[0] == 2


VERBS = ["", "run", "generate", "score", "recipes", "losses", "show"]
VERBS += [f"data {verb}" for verb in ("build", "stats", "show", "check", "sets")]
VERBS += [f"eval {verb}" for verb in ("rewardbench", "leaderboard", "reward")]


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_an_example(command, verb):
    code, out, _ = command(*verb.split(), "--help")
    assert code == 0
    assert "Example: sawyer" in out


def help_of(*python: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *python, "-m", "sawyer", "--help"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_help_imports_nothing_heavy():
    done = help_of("-X", "importtime")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sawyer.cli" in imported
    heavy = {"torch", "transformers", "datasets", "numpy", "pydantic", "accelerate", "matplotlib", "yaml"}
    assert not imported & heavy


def test_help_is_there_in_half_a_second():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert help_of().returncode == 0
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5, seconds


def test_the_settings_of_stages_can_be_read_without_torch():
    root = Path(__file__).parents[1]
    program = "import sys; from sawyer.pipeline.stage import stage_kinds; stage_kinds(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
