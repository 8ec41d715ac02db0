"""Each objective makes a tiny model learn what a toy can teach, and what it learned holds for examples not seen."""

import math

import pytest

from sawyer.journal import Silent
from sawyer.train import objectives
from sawyer.train.loop import measure, train
from sawyer.train.reference import with_reference


def learn(model, trees, held_out, objective, settings, precision="fp32"):
    """Held-out figures before and after."""
    before = measure(model, held_out, objective, 256)
    train(model, trees, objective, settings, precision=precision, seed=0, journal=Silent(), title="toy")
    return before, measure(model, held_out, objective, 256)


@pytest.fixture
def thirty(optimizer):
    return optimizer(steps=30, batch_size=8, learning_rate=1e-2, token_budget=512)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_sft_learns_which_tokens_completions_are_made_of(arch, precision, policy, toy, thirty):
    model = policy(arch)
    _without_dropout(model)
    before, after = learn(model, toy(64, k=1), toy(16, k=1, seed=1), objectives.sft(), thirty, precision)
    assert before["loss"] > math.log(320) - 0.5
    assert after["loss"] < math.log(30) + 1.0  # the completions are drawn from 30 tokens of 320


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_reward_model_learns_the_ranking(k, precision, reward, toy, thirty):
    objective = objectives.reward_model(centring=0.01)
    before, after = learn(reward(), toy(64, k), toy(32, k, seed=1), objective, thirty, precision)
    assert after["accuracy"] > 0.95
    assert after["loss"] < 0.3 < before["loss"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dpo_learns_to_prefer_chosen(precision, policy, tiny_policy, toy, thirty):
    trees, held_out = (
        with_reference(
            lambda: tiny_policy("llama"), toy(n, seed=seed), precision=precision, token_budget=100, journal=Silent()
        )
        for n, seed in [(64, 0), (32, 1)]
    )
    before, after = learn(policy(), trees, held_out, objectives.dpo(beta=0.1), thirty, precision)
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-5 if precision == "fp32" else 0.02)
    assert after["loss"] < 0.35
    assert after["accuracy"] > 0.95
    assert after["reward_chosen"] > after["reward_rejected"]


def test_a_policy_that_is_its_reference_starts_at_log_two(policy, tiny_policy, toy):
    trees = with_reference(lambda: tiny_policy("llama"), toy(9), precision="fp32", token_budget=40, journal=Silent())
    figures = measure(policy(), trees, objectives.dpo(), 4096)
    assert figures["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert figures["margin"] == pytest.approx(0, abs=1e-5)


def _without_dropout(model) -> None:
    for module in model.modules():
        for name in ("p", "attn_dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
