"""Where a model comes from, by the manifests of its run."""

import json

import pytest

from sawyer.data.files import write_records
from sawyer.data.records import Comparison, Prompt, user
from sawyer.pipeline.artifact import load_artifact, write_manifest
from sawyer.pipeline.lineage import lineage_of, rewarded_by


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(name, makes, settings, inputs)`: a finished stage of a run, with its content."""
    monkeypatch.setattr("sawyer.pipeline.artifact.git_commit", lambda: None)

    def build(name, makes, settings=None, inputs=(), parts=None, given=None):
        folder = tmp_path / name
        folder.mkdir()
        for part, records in (parts or {}).items():
            write_records(folder / f"{part}.jsonl", records)
        if makes in ("policy", "reward_model"):
            (folder / "config.json").write_text(json.dumps({"name": name}))
        known = {one: load_artifact(tmp_path / one) for one in inputs}
        entries = {one: {"fingerprint": one, "sha256": known[one].sha256} for one in inputs} | (given or {})
        write_manifest(
            folder,
            {"stage": makes, "name": name, "makes": makes, "settings": settings or {}, "inputs": entries,
             "recipe_seed": 3, "fingerprint": name, "figures": {}},
        )  # fmt: skip
        return folder

    return build


def prompts(*texts):
    return [Prompt((user(text),)) for text in texts]


@pytest.fixture
def run(make):
    """Two data sets, `sft` on one of them, a reward model, and two policies: rewarded by it, and by gold."""
    make(
        "asked", "prompts", parts={"train": prompts("trained on?"), "test": prompts("held out?"), "dev": prompts("d?")}
    )
    pairs = [Comparison((user("ranked?"),), ("a", "b"))]
    make("pairs", "comparisons", parts={"train": pairs, "test": [Comparison((user("ranked too?"),), ("a", "b"))]})
    make(
        "sft", "policy", {"model": "base", "data": "asked", "part": "train"}, ["asked"], given={"base": {"model": "m"}}
    )
    make("reward", "reward_model", {"model": "sft", "data": "pairs", "part": "train"}, ["sft", "pairs"])
    settings = {"data": "asked", "part": "train", "validation": "dev", "reward": "reward", "gold": "verifiable"}
    make("ppo", "policy", settings, ["sft", "asked", "reward"])
    return make("golden", "policy", {"data": "asked", "part": "train", "gold": "verifiable"}, ["sft", "asked"]).parent


def test_the_data_of_all_that_it_builds_on_is_found(run):
    lineage = lineage_of(run / "ppo")
    assert [prompt.text for prompt in lineage.training_prompts()] == ["trained on?", "d?", "ranked?"]
    assert lineage.seed == 3
    assert lineage.missing == ()
    assert [prompt.text for prompt in lineage_of(run / "sft").training_prompts()] == ["trained on?"]


def test_the_reward_of_a_training_is_known_by_its_content(run, tmp_path):
    lineage = lineage_of(run / "ppo")
    assert rewarded_by(lineage, run / "reward")
    assert not rewarded_by(lineage_of(run / "sft"), run / "reward")
    assert not rewarded_by(lineage, "verifiable"), "with a reward, gold was only watched"
    assert rewarded_by(lineage_of(run / "golden"), "verifiable")
    (run / "reward").rename(run / "elsewhere")
    assert rewarded_by(lineage_of(run / "ppo"), run / "elsewhere")
    assert lineage_of(run / "ppo").missing == ("reward",)


def test_a_part_of_an_artifact_is_the_artifact(run):
    (run / "ppo" / "iterates" / "2").mkdir(parents=True)
    assert lineage_of(run / "ppo" / "iterates" / "2").artifact.name == "ppo"
    (run / "ppo" / "discriminator").mkdir()
    assert rewarded_by(lineage_of(run / "ppo"), run / "ppo" / "discriminator"), "it learned beside the policy"


def test_several_rewards_are_all_known(make):
    make("reward", "reward_model")
    entry = {"help": {"model": "org/help", "sha256": None, "revision": "1"}}
    folder = make(
        "ppo", "policy", {"rewards": [{"model": "reward"}, {"model": "help"}, {"gold": "verifiable"}]}, ["reward"],
        given=entry,
    )  # fmt: skip
    lineage = lineage_of(folder)
    for reward in (folder.parent / "reward", "org/help", "verifiable"):
        assert rewarded_by(lineage, reward)
    assert not rewarded_by(lineage, "org/other")


def test_a_model_that_no_run_made_has_no_lineage(tmp_path):
    assert lineage_of(tmp_path) is None
    assert lineage_of("org/model") is None
    assert not rewarded_by(None, "verifiable")
