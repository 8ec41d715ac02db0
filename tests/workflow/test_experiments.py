"""The recipes of the experiments compare what they say they compare."""

from sawyer.losses.registry import LOSSES
from sawyer.pipeline.recipe import find_recipe, load_recipe


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
