"""A PPO training over its lives: killed anywhere, gone wrong, or given nothing to learn from."""

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.errors import SawyerError
from sawyer.models.lora import LoraSettings
from sawyer.train import ppo
from tests.lives import Killed, Mortal, killed_at_random, read_lines, same, without_speed
from tests.train import ppo_toy
from tests.train.ppo_toy import settings_of

PROGRAM = ["-m", "tests.train.ppo_toy"]


CONTINUED = {
    "gae": {"estimator": "gae", "kl": {"schedule": "adaptive", "target": 0.1}, "epochs": 2, "mini_batches": 2},
    "bf16": {"estimator": "gae", "precision": "bf16", "value": {"warmup": 1}},
    "reinforce": {"estimator": "reinforce"},
    "adapters": {"lora": LoraSettings(r=2), "value": {"model": "adapters", "learning_rate": 1e-2}, "mini_batches": 2},
    "rollback": {
        "estimator": "rloo", "learning_rate": 3e-2,
        "kl": {"coefficient": 0.0, "ceiling": 0.5}, "collapse": {"action": "rollback", "patience": 1, "rollbacks": 9},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTINUED)
def test_killed_at_any_step_it_goes_on_to_the_same_bits(kind, trial, tmp_path):
    given = {**CONTINUED[kind], "steps": 6, "checkpoint_every": 2, "validate_every": 2}
    whole = Mortal()
    expected = trial(whole, tmp_path / "whole", **given)[3]
    for step in (1, 3, 4, 6) if kind == "gae" else (3,):
        journal = Mortal()
        journal.dies_at = step
        with pytest.raises(Killed):
            trial(journal, tmp_path / f"{step}", **given)
        journal.dies_at = None
        _, toy, _, found = trial(journal, tmp_path / f"{step}", **given)
        assert toy.calls[0] == (step - 1) // 2 * 2
        same(found.weights.masters, expected.weights.masters)
        assert found.figures == expected.figures
        assert without_speed(journal.lines) == without_speed(whole.lines)


def test_kill_9_at_a_random_moment(tmp_path):
    ppo_toy.run(tmp_path / "whole", steps=40)
    program = [*PROGRAM, str(tmp_path / "killed"), "--steps", "40"]
    killed_at_random(program, tmp_path / "killed" / "metrics.jsonl", 35)
    ppo_toy.run(tmp_path / "killed", steps=40)
    same(*(load_file(tmp_path / name / "weights.safetensors") for name in ("killed", "whole")))
    assert read_lines(tmp_path / "whole/metrics.jsonl") == read_lines(tmp_path / "killed/metrics.jsonl")


def test_the_best_policy_within_the_ceiling_is_what_is_left(trial):
    _, toy, journal, trained = trial(
        estimator="rloo", steps=8, learning_rate=3e-2, validate_every=1,
        kl={"coefficient": 0.0, "ceiling": 1.0}, collapse={"action": "warn"},
    )  # fmt: skip
    held_out = [line for line in journal.lines if "validation_reward" in line]
    assert [line["step"] for line in held_out] == list(range(9))
    allowed = [line for line in held_out if line["step"] == 0 or line["validation_kl"] <= 1.0]
    assert len(allowed) < len(held_out)
    best = max(allowed, key=lambda line: line["validation_reward"])
    assert trained.figures["best"] == best["step"]
    assert float(toy.validate(0).reward_C.mean()) == pytest.approx(best["validation_reward"])


def test_a_collapse_ends_the_training_with_the_best_policy(trial):
    _, toy, journal, trained = trial(
        estimator="rloo", steps=8, learning_rate=3e-2, kl={"coefficient": 0.0, "ceiling": 0.3}, collapse={"patience": 2}
    )
    assert len(toy.calls) < 8
    assert "above the ceiling" in trained.figures["stopped"]
    assert trained.figures["steps"] == len(toy.calls)
    assert journal.lines[-1]["step"] == len(toy.calls)


def test_a_rollback_goes_back_to_the_best_policy_and_doubles_the_coefficient(trial):
    _, toy, journal, _ = trial(
        estimator="rloo", steps=6, learning_rate=3e-2, kl={"coefficient": 0.01, "ceiling": 0.3},
        collapse={"action": "rollback", "patience": 1, "rollbacks": 1},
    )  # fmt: skip
    lines = [line for line in journal.lines if "kl_coefficient" in line]
    assert toy.calls.count("back") == 1
    back = next(i for i, line in enumerate(lines) if line["kl"] > 0.3)
    assert lines[back + 1]["kl"] == pytest.approx(0, abs=1e-4)
    assert lines[back + 1]["kl_coefficient"] == pytest.approx(0.02)


def test_the_last_policy_is_the_result_where_one_says_so(trial):
    _, toy, journal, trained = trial(
        estimator="rloo", steps=4, learning_rate=3e-2, keep="last",
        kl={"coefficient": 0.0, "ceiling": 0.01}, collapse={"action": "warn"},
    )  # fmt: skip
    last = [line for line in journal.lines if "validation_reward" in line][-1]
    assert (trained.figures["best"], last["step"]) == (0, 4)  # of all policies but the first the KL is too large
    assert trained.figures["validation_reward"] == last["validation_reward"]
    assert float(toy.validate(0).reward_C.mean()) == pytest.approx(last["validation_reward"])


def nothing_but(value):
    return lambda ids: value


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (nothing_but(float("nan")), r"the reward of 16 of 16 completions after 2 steps is not a number"),
        (nothing_but(float("inf")), r"the reward of 16 of 16 completions after 2 steps is not a number"),
        (nothing_but(0.5), r"all 16 completions of step 5 earned 0\.5, as in the 2 steps before"),
    ],
    ids=["nan", "infinite", "constant"],
)
def test_rewards_that_say_nothing_are_one_sentence_and_the_last_checkpoint_stays(reward, sentence, trial, tmp_path):
    """They come in the third step; a continuation with better ones ends as a training that never had them."""
    given = {"steps": 6, "checkpoint_every": 1}
    expected = trial(scratch=tmp_path / "whole", **given)[3]
    with pytest.raises(SawyerError, match=sentence) as error:
        trial(scratch=tmp_path / "bad", world={"turns": (2, reward)}, **given)
    assert "\n" not in str(error.value)
    assert f"the last good checkpoint is kept in {tmp_path / 'bad' / 'checkpoint'}" in str(error.value)
    if "not a number" in sentence:
        same(trial(scratch=tmp_path / "bad", **given)[3].weights.masters, expected.weights.masters)


def test_a_loss_that_is_no_number_is_one_sentence_and_the_last_checkpoint_stays(trial, tmp_path, monkeypatch):
    given = {"steps": 3, "checkpoint_every": 1, "scratch": tmp_path / "bad"}
    steps = []

    def broken(*arguments, **more):
        steps.append(1)
        advantage_N, return_N = estimate(*arguments, **more)
        return advantage_N * (float("nan") if len(steps) == 3 else 1.0), return_N

    estimate = ppo.estimate
    with monkeypatch.context() as patch:
        patch.setattr(ppo, "estimate", broken)
        with pytest.raises(
            SawyerError, match="the loss is not a number in step 3 of 3; lower `learning_rate`"
        ) as error:
            trial(**given)
    assert "the last good checkpoint is kept in" in str(error.value)
    same(trial(**given)[3].weights.masters, trial(steps=3)[3].weights.masters)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"estimator": "rloo", "n": 1}, "give `n` of 2 at least"),
        ({"estimator": "grpo", "value": {"model": "own"}}, "needs no value model"),
        ({"estimator": "rloo", "gamma": 0.9}, "leave `gamma` at 1"),
        ({"estimator": "rloo", "gae_lambda": 0.9}, "`gae_lambda` is for `estimator: gae`"),
        ({"kl": {"as": "loss"}}, "the gradient of k1 as a loss has mean 0"),
        ({"mini_batches": 5}, "cannot be dealt to 5 mini-batches"),
        ({"lora": {"dropout": 0.1}}, "leave `lora.dropout` at 0"),
        ({"value": {"warmup": 3}}, "leaves no step to train the policy in"),
        ({"kl": {"coefficient": -1}}, "greater than or equal to 0"),
        ({"value": {"model": "adapters"}}, "stands beside the policy's adapters: set `lora`"),
        ({"value": {"model": "adapters"}, "lora": {}, "gradient_checkpointing": True}, "leave it off with"),
        ({"whiten": "batch"}, "mini_batch"),
    ],
)
def test_settings_that_do_not_fit(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        settings_of(**given)
