"""Reinforcement learning on a toy reward: ratios start at 1, settings do what they say, the best policy is kept."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.errors import SawyerError
from sawyer.journal import Silent
from sawyer.losses import policy
from sawyer.methods.estimators import ESTIMATORS
from sawyer.models.adapters import Trainable
from sawyer.models.heads import attach_fresh_head
from sawyer.models.lora import LoraSettings
from sawyer.train import ppo, ppo_batch
from sawyer.train.loop import forward_backward
from sawyer.train.optim import MasterWeights
from sawyer.train.ppo_settings import PPOSettings
from sawyer.train.ppo_state import Memory
from sawyer.trees.actor import ActorCritic, TreeCritic, read_tokens
from sawyer.trees.model import TreePolicy
from tests.train import ppo_toy
from tests.train.ppo_toy import Toy, reference_of

ROOT = Path(__file__).parents[2]
PROGRAM = ["-m", "tests.train.ppo_toy"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def settings_of(**changes) -> PPOSettings:
    small = {"steps": 3, "batch_size": 4, "learning_rate": 3e-3, "token_budget": 24, "validate_every": None}
    return PPOSettings(**{**small, "schedule": "constant", "warmup_ratio": 0, **changes})


@pytest.fixture
def trial(tiny_policy, tmp_path):
    """`trial(**settings)`: one training of a fresh tiny policy; the actor, its world, the journal and what came out."""
    count = []

    def run(journal=None, scratch=None, critic="default", world=None, precision="fp32", seed=3, **changes):
        settings = settings_of(**changes)
        count.append(1)
        model = tiny_policy("llama")
        if settings.lora is not None:
            model = Trainable(lambda: tiny_policy("llama"), settings.lora, seed=1).model
        if critic == "default":
            critic = "shared" if settings.estimated.values else None
        actor, reference = ActorCritic(model, critic), reference_of(tiny_policy("llama"))
        toy = Toy(actor, **(world or {}))
        journal = journal or Silent()
        trained = ppo.train(
            actor, reference, toy, settings, max_tokens=8, precision=precision, seed=seed, journal=journal,
            title="ppo", scratch=scratch or tmp_path / f"scratch-{len(count)}",
        )  # fmt: skip
        return actor, toy, journal, trained

    return run


def batch_of(tiny_policy, settings, critic=None, **world):
    actor = ActorCritic(tiny_policy("llama"), critic)
    frozen = TreePolicy(tiny_policy("llama", 0))
    reference = lambda trees: read_tokens(lambda batch: (frozen(batch),), trees, 24, "cpu")[0]
    return actor, ppo.read(actor, reference, Toy(actor, **world).roll_out(0), settings)


def test_ratios_are_1_at_the_first_mini_batch(tiny_policy):
    settings = settings_of(mini_batches=2)
    actor, batch = batch_of(tiny_policy, settings, "shared")
    trees = ppo.carrying(batch, torch.randn(len(batch.logp_N)), torch.zeros(len(batch.logp_N)))
    actor.train()
    (again_N, old_N) = read_tokens(
        lambda row: (actor.read(row).logp_N, row.token_values[ppo_batch.OLD]), trees[:2][::-1], 500, "cpu"
    )
    assert float(((again_N - old_N).exp() - 1).abs().max()) < 1e-4
    assert float((batch.logp_N - batch.rollout.drawn_logp_N).abs().max()) < 1e-4  # the engine said the same
    assert batch.kl == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_learns_the_toy(name, trial):
    _, _, journal, _ = trial(
        estimator=name, steps=16, epochs=2, mini_batches=2, learning_rate=5e-3, kl={"coefficient": 0.0},
        collapse={"action": "warn"},
    )  # fmt: skip
    rewards = [line["reward"] for line in journal.lines if "reward" in line]
    assert len(rewards) == 16
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.15


def test_the_loss_of_a_mini_batch_is_the_padded_loop(tiny_policy):
    """Everything at once: clipped policy, clipped value, k3 as a loss, entropy; a loop over tokens of plain passes."""
    settings = settings_of(entropy=0.01, kl={"as": "loss", "estimator": "k3", "coefficient": 0.3}, clip_high=0.3)
    actor, batch = batch_of(tiny_policy, settings, "shared")
    torch.manual_seed(0)
    actor.value_head.weight.data.normal_()
    total = len(batch.logp_N)
    shaken = replace(
        batch, logp_N=batch.logp_N + 0.3 * torch.randn(total), value_N=torch.randn(total),
        reference_logp_N=batch.logp_N + 0.3 * torch.randn(total), weight_N=torch.rand(total),
    )  # fmt: skip
    advantage_N, return_N = torch.randn(total), torch.randn(total)
    trees = ppo.carrying(shaken, advantage_N, return_N)
    found = forward_backward(actor, trees, ppo.clipped_objective(settings, 0.3), 24)

    loss, at = 0.0, 0
    for tree in batch.rollout.trees:
        for ids in tree.completions:
            with torch.no_grad():
                row = torch.tensor([[*tree.prompt, *ids]])
                frozen = TreePolicy(tiny_policy("llama")).core
                frozen.set_attn_implementation("eager")
                hidden = frozen.base_model(row).last_hidden_state[0, len(tree.prompt) - 1 : -1]
                logp_T_V = frozen.get_output_embeddings()(hidden).log_softmax(-1)
                value_T = actor.value_head(hidden)[:, 0]
            for t, token in enumerate(ids):
                new, i = logp_T_V[t, token], at + t
                rho, a = (new - shaken.logp_N[i]).exp(), advantage_N[i]
                term = -torch.min(rho * a, rho.clamp(0.8, 1.3) * a)
                back = shaken.reference_logp_N[i] - new
                term = term + 0.3 * (back.exp() - 1 - back) - 0.01 * policy.entropy(logp_T_V[t][None])[0]
                near = shaken.value_N[i] + (value_T[t] - shaken.value_N[i]).clamp(-0.2, 0.2)
                wrong = torch.max((value_T[t] - return_N[i]) ** 2, (near - return_N[i]) ** 2)
                loss += float(shaken.weight_N[i] * term) + 0.1 * 0.5 * float(wrong)
            at += len(ids)
    assert float(found["loss"]) == pytest.approx(loss / total, rel=1e-4)


def gradients(actor, trees, settings, budget):
    objective = ppo.clipped_objective(settings, 0.1)
    weights = MasterWeights(actor, settings, "fp32", ActorCritic.is_critic)
    forward_backward(actor, trees, objective, budget)
    found = {name: master.grad.clone() for name, master in weights.masters.items() if master.grad is not None}
    for master in weights.masters.values():
        master.grad = None
    weights.release()
    return found


def test_fewer_prompts_than_mini_batches_are_an_update_each(trial):
    journal = trial(batch_size=8, mini_batches=7, estimator="rloo", steps=1, kl={"as": "loss", "estimator": "k2"})[2]
    (line,) = [line for line in journal.lines if "loss" in line]
    assert line["loss"] == pytest.approx(line["policy_loss"] + 0.03 * line["kl_loss"], abs=1e-5)
    assert line["grad_norm"] > 0


@pytest.mark.parametrize("average", ["token", "completion", "sum", "constant"])
def test_packing_changes_no_gradient_and_an_average_is_what_it_says(average, tiny_policy):
    settings = settings_of(estimator="grpo", average=average)
    actor, batch = batch_of(tiny_policy, settings)
    advantage_N = torch.randn(len(batch.logp_N), generator=torch.Generator().manual_seed(0))
    trees = ppo.weighted(ppo.carrying(batch, advantage_N, None), average, 8)
    one, other = (gradients(actor, list(some), settings, budget) for some, budget in ((trees, 500), (trees[::-1], 16)))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-4)
    lengths = [len(ids) for tree in trees for ids in tree.completions]
    weights = torch.cat([tree.token_values[ppo_batch.WEIGHT] for tree in trees]).split(lengths)
    means = {
        "token": lambda: sum(float(own.sum()) for own in advantage_N.split(lengths)) / sum(lengths),
        "completion": lambda: sum(float(own.mean()) for own in advantage_N.split(lengths)) / len(lengths),
        "sum": lambda: sum(float(own.sum()) for own in advantage_N.split(lengths)) / len(lengths),
        "constant": lambda: sum(float(own.sum()) / 8 for own in advantage_N.split(lengths)) / len(lengths),
    }
    found = sum(float((w * a).sum()) for w, a in zip(weights, advantage_N.split(lengths), strict=True)) / sum(lengths)
    assert found == pytest.approx(means[average](), rel=1e-4, abs=1e-6)


def test_the_kl_as_a_reward_is_taken_off_token_by_token(tiny_policy):
    settings = settings_of(estimator="reinforce++", whiten=False, kl={"coefficient": 0.5})
    _, batch = batch_of(tiny_policy, settings)
    batch = replace(batch, reference_logp_N=batch.logp_N - 0.2)
    plain_N, _ = ppo.estimate(replace(batch, reference_logp_N=batch.logp_N), settings, 0.5, Memory(settings))
    held_N, _ = ppo.estimate(batch, settings, 0.5, Memory(settings))
    lengths = [len(ids) for tree in batch.rollout.trees for ids in tree.completions]
    left = torch.cat([torch.arange(length, 0, -1) for length in lengths])
    torch.testing.assert_close(plain_N - held_N, 0.5 * 0.2 * left.float())


@pytest.mark.parametrize(
    ("given", "where"),
    [({}, "reward"), ({"as": "loss", "estimator": "k3"}, "loss"), ({"as": "loss", "estimator": "k2"}, "loss")],
)
def test_the_kl_holds_the_policy_back(given, where, trial):
    same = {"steps": 10, "estimator": "rloo", "epochs": 2}
    free = trial(**same, kl={"coefficient": 0.0})[2].lines
    held = trial(**same, kl={**given, "coefficient": 20.0})[2].lines
    last = [next(line["kl"] for line in reversed(lines) if "kl" in line) for lines in (free, held)]
    assert last[1] < 0.6 * last[0]
    assert any("kl_loss" in line for line in held) == (where == "loss")


def test_a_temperature_is_corrected_by_importance_weights(tiny_policy):
    settings = settings_of(estimator="rloo", importance_cap=1.5)
    _, batch = batch_of(tiny_policy, settings, temperature=0.5)
    wanted = policy.importance_weights(batch.logp_N, batch.rollout.drawn_logp_N, cap=1.5)
    torch.testing.assert_close(batch.weight_N, wanted)
    assert float(wanted.max()) <= 1.5
    assert float(wanted.min()) < 0.9


def test_values_are_learned_and_the_policy_waits_while_they_warm_up(trial, tiny_policy):
    for critic, value in (("default", {"warmup": 2}), ("own", {"warmup": 2, "model": "own", "learning_rate": 1e-3})):
        if critic == "own":
            critic = TreeCritic(attach_fresh_head(tiny_policy("llama", 5)))
        _, _, journal, _ = trial(critic=critic, value=value, steps=3, weight_decay=0.1)
        lines = [line for line in journal.lines if "value_loss" in line]
        assert [line["kl"] for line in lines[:3]] == pytest.approx([0, 0, 0], abs=1e-4)
        assert [line["learning_rate"] for line in lines] == [0, 0, 3e-3]
        assert lines[1]["value_loss"] != lines[0]["value_loss"]
        assert {"explained_variance", "clip_fraction", "entropy", "engine_gap"} <= lines[0].keys()


def test_a_value_model_of_its_own_learns_and_leaves_the_policy_its_weights(trial, tiny_policy):
    critic = TreeCritic(attach_fresh_head(tiny_policy("llama", 5)))
    value = {"model": "own", "learning_rate": 3e-3, "clip": None, "coefficient": 1.0}
    _, _, journal, trained = trial(critic=critic, value=value, steps=10, epochs=2, kl={"coefficient": 0.0})
    losses = [line["value_loss"] for line in journal.lines if "value_loss" in line]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert {name.split(".")[0] for name in trained.weights.masters} == {"model", "critic"}


def test_adapters_off_are_the_policy_that_training_started_from(trial, tiny_policy):
    actor, toy, journal, _ = trial(lora=LoraSettings(r=4), estimator="rloo", steps=4, learning_rate=1e-2)
    kl = [line["kl"] for line in journal.lines if "loss" in line]
    assert abs(kl[3]) > 1e-3  # adapters learn between two readings without them
    trees = toy.answer(5, 2).trees
    for p in actor.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    started = TreePolicy(tiny_policy("llama"))
    (wanted,) = read_tokens(lambda batch: (started(batch),), trees, 100, "cpu")
    (now,) = read_tokens(lambda batch: (actor(batch),), trees, 100, "cpu")
    with actor.without_adapters():
        (off,) = read_tokens(lambda batch: (actor(batch),), trees, 100, "cpu")
    torch.testing.assert_close(off, wanted, atol=1e-5, rtol=1e-5)
    assert float((now - wanted).abs().max()) > 1e-3
    (again,) = read_tokens(lambda batch: (actor(batch),), trees, 100, "cpu")
    assert torch.equal(again, now)


class Killed(BaseException):
    pass


class Mortal(Silent):
    dies_at: int | None = None

    def log(self, **figures):
        super().log(**figures)
        if "loss" in figures and figures["step"] == self.dies_at:
            raise Killed


CONTINUED = {
    "gae": {"estimator": "gae", "kl": {"schedule": "adaptive", "target": 0.1}, "epochs": 2, "mini_batches": 2},
    "bf16": {"estimator": "gae", "precision": "bf16", "value": {"warmup": 1}},
    "reinforce": {"estimator": "reinforce"},
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
    for step in (1, 3, 4, 6):
        journal = Mortal()
        journal.dies_at = step
        with pytest.raises(Killed):
            trial(journal, tmp_path / f"{step}", **given)
        journal.dies_at = None
        _, toy, _, found = trial(journal, tmp_path / f"{step}", **given)
        assert toy.calls[0] == (step - 1) // 2 * 2
        for name, value in expected.weights.masters.items():
            assert torch.equal(found.weights.masters[name], value), name
        assert found.figures == expected.figures
        strip = lambda lines: [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]
        assert strip(journal.lines) == strip(whole.lines)


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def test_kill_9_at_a_random_moment(tmp_path):
    ppo_toy.run(tmp_path / "whole", steps=40)
    command = [sys.executable, *PROGRAM, str(tmp_path / "killed"), "--steps", "40"]
    metrics = tmp_path / "killed" / "metrics.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    try:
        wanted, deadline = random.randint(1, 35), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.001)
        time.sleep(random.random() * 0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "weights.safetensors").exists(), "it had finished before it was killed"
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=120)
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "killed")


def test_two_processes_equal_one(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, *PROGRAM, str(tmp_path / "two"), "--steps", "4"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    if done.returncode and any(word in done.stderr for word in ("EADDR", "RendezvousConnectionError", "no interface")):
        pytest.skip(f"processes cannot talk to each other here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    ppo_toy.run(tmp_path / "one", steps=4)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    for ours, theirs in zip(lines_of(tmp_path / "one"), lines_of(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


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
    _, _, journal, _ = trial(
        estimator="rloo", steps=6, learning_rate=3e-2, kl={"coefficient": 0.01, "ceiling": 0.3},
        collapse={"action": "rollback", "patience": 1, "rollbacks": 1},
    )  # fmt: skip
    lines = [line for line in journal.lines if "kl_coefficient" in line]
    back = next(i for i, line in enumerate(lines) if line["kl"] > 0.3)
    assert lines[back + 1]["kl"] == pytest.approx(0, abs=1e-4)
    assert lines[back + 1]["kl_coefficient"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (lambda ids: float("nan"), r"the reward of .* completions after 0 steps is not a number"),
        (lambda ids: 0.5, r"all 16 completions of step 3 earned 0\.5, as in the 2 steps before"),
    ],
)
def test_rewards_that_say_nothing_are_one_sentence(reward, sentence, trial):
    with pytest.raises(SawyerError, match=sentence) as error:
        trial(world={"reward": reward}, steps=5, checkpoint_every=1)
    assert "\n" not in str(error.value)
    assert "checkpoint" in str(error.value)


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
    ],
)
def test_settings_that_do_not_fit(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        settings_of(**given)


def test_an_estimator_brings_what_its_paper_takes():
    grpo, dr = settings_of(estimator="grpo"), settings_of(estimator="dr_grpo")
    assert (grpo.kl_as, grpo.kl_estimator, grpo.kl_coefficient) == ("loss", "k3", 0.04)
    assert (grpo.averaged, dr.averaged, dr.kl_coefficient) == ("completion", "constant", 0)
    assert settings_of(estimator="gae").whitened
    assert not settings_of(estimator="rloo").whitened
    assert settings_of(estimator="rloo", whiten=True, average="token").averaged == "token"
    assert json.loads(json.dumps(grpo.model_dump(mode="json")))["kl"]["as"] is None
    assert PPOSettings(**grpo.model_dump(mode="json")).estimator == "grpo"
