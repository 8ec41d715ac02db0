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


def answers(own, stages):
    """Answers that a stage's training is made of, and those by which its result is chosen."""
    if hasattr(own, "iterations"):
        return own.iterations * own.prompts * own.n, own.iterations * own.validation_prompts
    if hasattr(own, "estimator"):
        validations = 1 + -(-own.steps // own.validate_every)  # at the start, on the way and at the end
        return own.steps * own.batch_size * own.n, validations * own.validation_prompts
    source = stages[stages[own.data].data]  # labelled answers
    return stages[source.data].parts["train"].n * source.n, 0


def test_ppo_and_dpo_are_compared_on_the_same_labels_and_as_many_answers():
    stages = settings_of("rl-comparison")
    compared = {name: stages[name] for name in ("dpo", "offline", "iterate", "ppo")}
    assert {name: answers(own, stages) for name, own in compared.items()} == {
        "dpo": (512, 0), "offline": (512, 60), "iterate": (512, 60), "ppo": (512, 60),
    }  # fmt: skip
    said = find_recipe("rl-comparison").read_text()
    for line in (
        "512 of `sft`: 128 prompts x 4",
        "(1 x 60)",
        "(4 x 32 prompts x 4)",
        "(4 x 15)",
        "(16 x 8 prompts x 4)",
    ):
        assert line in said
    assert compared["dpo"].data == stages["reward"].data == "labels"
    assert {own.reward for name, own in compared.items() if name != "dpo"} == {"reward"}
    assert {own.model for own in compared.values()} == {"sft"}
    prompts = stages["prompts"].parts["train"].n
    for own in (compared["ppo"], compared["iterate"], compared["offline"]):
        assert prompts == (own.steps * own.batch_size if hasattr(own, "estimator") else own.iterations * own.prompts)
        assert own.sampling.max_tokens == stages["answers"].sampling.max_tokens == 48
    assert len({own.learning_rate for own in compared.values()}) == 1
    assert stages["evaluate"].policies[0] == "sft"
    assert set(stages["evaluate"].policies[1:]) == set(compared)


def test_each_cause_of_the_collapse_is_put_back_alone():
    stages = settings_of("collapse")
    told = {name: own.model_dump(mode="json") for name, own in stages.items() if hasattr(own, "estimator")}
    base = told["unwatched"]
    changed = {name: {key for key in own if own[key] != base[key]} for name, own in told.items()}
    assert changed == {
        "unwatched": set(),
        "fixed": {"collapse", "keep"},
        "whitening": {"batch_size", "n", "mini_batches", "whiten"},
        "top_k": {"sampling"},
        "scale": {"max_grad_norm", "shaping"},
        "kl": {"kl"},
        "endless": {"shaping"},
        "values": {"value"},
        "notebook": {"steps", "batch_size", "n", "mini_batches", "whiten", "sampling", "max_grad_norm", "shaping", "kl",
                     "value", "validate_every"},
    }  # fmt: skip
    assert {answers(own, stages)[0] for name, own in stages.items() if name in told} == {192}
    assert stages["evaluate"].policies == ["sft", *told]
    notebook = settings_of("sawyer-notebook")["ppo"]
    for name in ("batch_size", "n", "mini_batches", "whiten", "max_grad_norm", "shaping", "kl", "keep", "collapse"):
        assert getattr(stages["notebook"], name) == getattr(notebook, name), name
    fixed = settings_of("sawyer-fixed")["ppo"]
    for name in ("n", "mini_batches", "max_grad_norm", "shaping", "kl", "keep"):
        assert getattr(stages["fixed"], name) == getattr(fixed, name), name
    assert stages["fixed"].whitened is True


def test_llama_3s_steps_follow_each_other():
    stages = settings_of("llama3")
    order = ["sft", "rejection", "dpo", "ppo"]
    assert stages["evaluate"].policies == order
    assert [stages[later].model for later in order[1:]] == order[:-1]
    assert (stages["rejection"].learn, stages["rejection"].n) == ("best", 8)
    assert stages["later_labels"].data == "later_answers"
    assert (stages["later_answers"].model, stages["dpo"].data) == ("rejection", "later_labels")
    assert (stages["dpo"].loss, stages["dpo"].options) == ("rpo", {"beta": 0.1, "nll_weight": 0.2})
    assert stages["dpo"].learning_rate == 1e-5


def test_what_is_judged_is_trained_on_nowhere():
    for name in ("ladder", "losses", "over-optimisation", "rl-comparison", "collapse", "llama3"):
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
