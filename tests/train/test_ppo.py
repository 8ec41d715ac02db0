"""Reinforcement learning on a toy reward: ratios start at 1, settings do what they say."""

import json
from dataclasses import replace

import pytest
import torch

from sawyer.losses import policy
from sawyer.methods.advantages import whiten
from sawyer.methods.estimators import ESTIMATORS
from sawyer.models.heads import attach_fresh_head
from sawyer.models.lora import LoraSettings
from sawyer.train import ppo, ppo_batch
from sawyer.train.loop import forward_backward
from sawyer.train.optim import MasterWeights
from sawyer.train.ppo_settings import PPOSettings
from sawyer.train.ppo_state import Memory
from sawyer.trees.actor import ActorCritic, TreeCritic, read_tokens
from sawyer.trees.model import TreePolicy
from tests.train.ppo_toy import Toy, settings_of


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


def test_whitening_over_a_mini_batch_of_one_answer_takes_away_how_good_it_was(tiny_policy):
    settings = settings_of(n=1, mini_batches=4, whiten="mini_batch")
    _, batch = batch_of(tiny_policy, settings, "shared", n=1)
    advantage_N, return_N = ppo.estimate(batch, settings, 0.0, Memory(settings))
    for tree, other in zip(*(ppo.carrying(batch, a, return_N) for a in (advantage_N, advantage_N + 7)), strict=True):
        (own,), (better,) = ppo_batch.whitened([tree]), ppo_batch.whitened([other])
        found_N = own.token_values[ppo_batch.ADVANTAGE]
        torch.testing.assert_close(found_N, whiten(tree.token_values[ppo_batch.ADVANTAGE]))
        torch.testing.assert_close(found_N, better.token_values[ppo_batch.ADVANTAGE], atol=1e-4, rtol=1e-4)
    whole = ppo_batch.whitened(ppo.carrying(batch, advantage_N, return_N))
    found_N = torch.cat([tree.token_values[ppo_batch.ADVANTAGE] for tree in whole])
    torch.testing.assert_close(found_N, whiten(advantage_N))


def test_mini_batches_whitened_by_themselves_are_other_updates(trial):
    losses = []
    for how in (True, "mini_batch", False):
        lines = trial(steps=1, mini_batches=4, whiten=how)[2].lines
        losses += [line["policy_loss"] for line in lines if "policy_loss" in line]
    assert len(set(losses)) == 3


def test_an_estimator_brings_what_its_paper_takes():
    grpo, dr = settings_of(estimator="grpo"), settings_of(estimator="dr_grpo")
    assert (grpo.kl_as, grpo.kl_estimator, grpo.kl_coefficient) == ("loss", "k3", 0.04)
    assert (grpo.averaged, dr.averaged, dr.kl_coefficient) == ("completion", "constant", 0)
    assert settings_of(estimator="gae").whitened
    assert not settings_of(estimator="rloo").whitened
    assert settings_of(estimator="rloo", whiten=True, average="token").averaged == "token"
    assert json.loads(json.dumps(grpo.model_dump(mode="json")))["kl"]["as"] is None
    assert PPOSettings(**grpo.model_dump(mode="json")).estimator == "grpo"
