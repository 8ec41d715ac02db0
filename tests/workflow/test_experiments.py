"""The recipes of the experiments compare what they say they compare."""

import json

import pytest
import yaml

from sawyer.losses.registry import LOSSES
from sawyer.pipeline.recipe import find_recipe, load_recipe
from sawyer.pipeline.seeds import place, read_seeds, run_seeds


def settings_of(name, *overrides):
    return {planned.name: planned.settings for planned in load_recipe(find_recipe(name), overrides).stages}


def test_every_loss_stands_in_the_table_and_learns_from_the_same_pairs():
    stages = settings_of("losses")
    trained = {name: own for name, own in stages.items() if name in LOSSES}
    assert set(trained) == set(LOSSES)
    assert [own.loss for own in trained.values()] == list(trained)
    assert all(own.lora is not None and not own.lora.merge for own in trained.values())
    assert len({(own.data, own.limit, own.learning_rate, own.epochs, own.model) for own in trained.values()}) == 1
    assert stages["evaluate"].policies == ["sft", *trained]
    assert not stages["evaluate"].previous


def labels(own):
    """Gold labels that an `iterate` stage pays for: answers to train on, and to choose the iterate by."""
    return own.iterations * (own.prompts * own.n + own.validation_prompts)


def test_all_rungs_of_the_ladder_pay_for_as_many_gold_labels():
    stages = settings_of("ladder")
    rungs = [stages[name] for name in ("offline", "iterate", "penalised")]
    assert [labels(own) for own in rungs] == [816] * 3
    assert [own.iterations for own in rungs] == [1, 3, 3]
    assert {own.iterations * own.prompts for own in rungs} == {stages["prompts"].parts["train"].n}
    free = ("iterations", "prompts", "validation_prompts", "pairs")
    rest = [{k: v for k, v in own.model_dump(mode="json").items() if k not in free} for own in rungs]
    assert rest[0] == rest[1] == rest[2]
    assert rungs[0].pairs == rungs[1].pairs
    assert rungs[2].pairs.length_penalty > 0


def test_what_is_judged_is_trained_on_nowhere():
    for name in ("ladder", "losses", "over-optimisation"):
        stages = settings_of(name)
        evaluate = stages["evaluate"]
        assert (evaluate.data, evaluate.part, evaluate.gold) == ("prompts", "test", "verifiable")
        assert stages["prompts"].parts["test"].split == "test"
        assert stages["prompts"].parts["train"].split == stages["demonstrations"].parts["train"].split == "train"


def test_best_of_n_and_the_iterates_are_measured_by_the_same_rewards_from_the_same_policy():
    stages = settings_of("over-optimisation")
    assert stages["evaluate"].reference == stages["iterate"].model == "sft"
    assert stages["evaluate"].proxy == stages["iterate"].reward == "reward"
    assert stages["evaluate"].best_of == 32


SMALL = {
    "max_tokens": 250, "max_dropped": 0.9, "limit": 12, "prompts": 4, "validation_prompts": 3, "best_of": 4,
    "sampling.max_tokens": 8, "batch_size": 4,
}  # fmt: skip
"""What a recipe's stages may have, small enough for a model of 256 tokens' context."""


def small(file, model):
    """`--set` for the recipe, so that it takes seconds on a tiny model."""
    changes = [f"model={model}", "precision=fp32"]
    for stage, own in settings_of(file).items():
        has = own.model_dump(mode="json")
        if "parts" in has and isinstance(has["parts"], dict):
            changes += [f"stages.{stage}.parts.{part}.n=12" for part in has["parts"]]
        for path, value in SMALL.items():
            if has.get(path.split(".")[0]) is not None or (path == "limit" and "limit" in has):
                changes.append(f"stages.{stage}.{path}={value}")
        if "lora" in has and has["lora"] is not None:
            changes.append(f"stages.{stage}.lora.r=2")
    return changes


KEPT = ("dpo", "kto", "sppo", "simpo")
"""Losses of the table that are trained here: each of them by itself is, in the tests of stage `preference`."""


def shorter(name, folder):
    """The recipe as a file, with a few of the losses only."""
    recipe = yaml.safe_load(find_recipe(name).read_text())
    stages = {stage: own for stage, own in recipe["stages"].items() if stage not in LOSSES or stage in KEPT}
    if name == "losses":
        stages["evaluate"]["policies"] = ["sft", *KEPT]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**recipe, "stages": stages}, sort_keys=False))
    return file


class Length:
    """What a random model can be told apart by, where it never meets a constraint."""

    name = "gold"

    def score(self, prompts, completions):
        return [[len(text) / 100 for text in own] for own in completions]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ladder", "over-optimisation", "losses"])
def test_the_recipe_runs_with_two_seeds(name, saved_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sawyer.feedback.rules.VerifiableReward", Length)
    file = shorter(name, tmp_path)
    folder = run_seeds(file, small(file, saved_policy("llama")), [0, 1], "out")
    together = read_seeds(folder)["evaluations"]["evaluate"]
    assert together["order"] == json.loads((place(folder, 0) / "evaluate" / "evaluation.json").read_text())["order"]
    page = (place(folder, 0) / "report.html").read_text()
    if name == "ladder":
        paid = [together["policies"][rung]["training"]["gold_labels"] for rung in ("offline", "iterate", "penalised")]
        assert paid == [4 * 4 + 3, 3 * (4 * 4 + 3), 3 * (4 * 4 + 3)]
        assert [(c["policy"], c["against"]) for c in together["comparisons"]][-1] == ("penalised", "iterate")
        assert "tokens" in together["comparisons"][-1]
        assert "gold labels" in page
    elif name == "losses":
        assert together["order"] == ["sft", *KEPT]
        assert all(c["against"] == "sft" for c in together["comparisons"])
        assert all("kl" in own and "tokens" in own for own in together["policies"].values())
        assert all("training" in own for own in together["policies"].values())
        assert not (place(folder, 0) / "dpo" / "model.safetensors").exists()
    else:
        assert [point["n"] for point in together["best_of_n"]] == [1, 2, 4]
        assert "root of the KL" in page
        assert "root of the KL" in (folder / "seeds.html").read_text()
