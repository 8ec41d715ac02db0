"""The command in its own process where the surroundings refuse: one sentence, exit code 2, nothing half-written."""

import json

import pytest

from tests.nursery import Nursery

DATA = """\
name: x
model: {model}
stages:
  talks: {{stage: data, source: {{source: verifiable, n: {n}, form: demonstrations}}}}
"""
TRAINED = DATA + "  sft: {{model: base, data: talks, max_tokens: 250, max_dropped: 0.9, batch_size: 4}}\n"


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch, tmp_path):
    """Here the stages are the real ones."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nursery")
    environment = {"HF_HOME": str(folder / "hf"), "PYTHONDONTWRITEBYTECODE": "1"}
    nursery = Nursery(folder, environment=environment)
    yield nursery
    nursery.stop()


@pytest.fixture
def sawyer(nursery, tmp_path):
    """Runs `sawyer run` on a recipe with no network, no fetched models, and optionally a limit to a file's size; exit
    code, stdout and stderr."""

    def run(recipe, file_bytes=None):
        (tmp_path / "x.yaml").write_text(recipe)
        environment = {"PIP_NO_INDEX": "1", "SAWYER_CACHE": str(tmp_path / "cache"), "SAWYER_NATIVE": "0"}
        return nursery.run(
            "run", "x.yaml", "--out", "out", cwd=tmp_path, environment=environment, file_bytes=file_bytes
        )

    return run


def complaint(done):
    """The one sentence of a command that was refused."""
    code, out, err = done
    assert code == 2, err
    assert "Traceback" not in err
    assert out == ""
    (sentence,) = [line for line in err.splitlines() if line.startswith("error:")]
    return sentence


def half_written(folder):
    return [path.name for path in folder.rglob("*") if "partial" in path.name or path.name.startswith("tmp")]


def test_no_room_for_the_data(sawyer, tmp_path, saved_policy, command):
    done = sawyer(DATA.format(model=saved_policy("llama"), n=400), 40_000)
    assert "stage 'talks': " in complaint(done)
    assert "train.jsonl cannot be written: File too large; free space" in complaint(done)
    assert not (tmp_path / "out/talks").exists()
    assert not half_written(tmp_path / "out")
    assert json.loads((tmp_path / "out/summary.json").read_text())["state"] == "failed"
    assert command("run", "x.yaml", "--out", "out")[0] == 0


@pytest.mark.slow
def test_no_room_for_the_weights(sawyer, tmp_path, saved_policy, command):
    recipe = TRAINED.format(model=saved_policy("llama"), n=12)
    done = sawyer(recipe, 60_000)
    assert "could not be written to out/.work/sft/folder" in complaint(done)
    assert "File too large" in complaint(done)
    assert (tmp_path / "out/talks/manifest.json").exists()
    assert not (tmp_path / "out/sft").exists()
    assert not half_written(tmp_path / "out")
    code, _, err = command("run", "x.yaml", "--out", "out")
    assert code == 0, err
    assert "talks: done already" in err


def test_no_network_for_a_model_of_the_hub(sawyer, tmp_path):
    said = complaint(sawyer(TRAINED.format(model="org/name", n=12)))
    assert said.startswith("error: x.yaml:2: org/name is not a local folder and could not be fetched from the Hugging")
    assert "check the name and the network" in said
    assert not (tmp_path / "out").exists()


def test_no_network_for_the_embedded_model(sawyer, tmp_path):
    said = complaint(sawyer(TRAINED.format(model="smollm2", n=12)))
    assert said.startswith("error: x.yaml:2: HuggingFaceTB/SmolLM2-135M-Instruct could be fetched neither from the")
    assert not (tmp_path / "out").exists()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]


def test_no_network_for_data_of_the_hub(sawyer, tmp_path, saved_policy):
    recipe = DATA.format(model=saved_policy("llama"), n=1)
    recipe = recipe.replace("{source: verifiable, n: 1, form: demonstrations}", "{source: hub, repo: org/pairs}")
    said = complaint(sawyer(recipe))
    assert "the data set org/pairs cannot be had from the Hugging Face hub" in said
    assert "check the name and the network, or load local files" in said
    assert not (tmp_path / "out/talks").exists()
