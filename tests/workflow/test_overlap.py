"""Answers of the next step while this one trains, in the stages `online` and `ppo`: whose they are, what corrects for
it, and that nothing is lost to a kill."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sawyer.models.load import load_policy
from sawyer.pipeline.processes import Processes
from sawyer.pipeline.stages import _online, _ppo, online, ppo
from sawyer.pipeline.stages._ahead import Ahead
from sawyer.rollout.protocol import Completion
from sawyer.train.loop import MasterWeights
from sawyer.train.ppo_batch import OLD, WEIGHT
from sawyer.trees.actor import read_tokens
from sawyer.trees.model import TreePolicy
from tests.lives import dying, places, read_lines, same
from tests.workflow import test_online, test_ppo

BACK = {"kl": {"coefficient": 0.0, "ceiling": 1e-4}, "collapse": {"action": "rollback", "patience": 1, "rollbacks": 9}}


@pytest.fixture
def run(context, reward, updates):
    """`run(kind, stage=None, **settings)`: the stage of that kind, and the trees of each update."""

    def call(kind, stage=None, **settings):
        stage = stage or context(test_online.ASKED, reward=reward)
        updates.clear()
        small, module = {"online": (test_online.SMALL, online), "ppo": (test_ppo.SMALL, ppo)}[kind]
        module.run(module.Settings(**{**small, **settings}), stage)
        return stage, list(updates)

    return call


def late(policies):
    """A slow reference: one thing after another, by an engine that is given the weights of one step before."""

    def drawn(self, step):
        policies.append({name: weight.clone() for name, weight in self.trainable.merged().items()})
        self.engine.load(policies[-2] if len(policies) > 1 else policies[0])
        return self.generate(self.due(step), self.settings.n, step)

    return drawn


def completions(updates):
    return [[tree.completions for tree in own] for own in updates]


def model_of(stage):
    return load_file(stage.folder / "model.safetensors")


def test_online_answers_are_of_the_weights_before(run, monkeypatch, tmp_path):
    stage, updates = run("online", overlap=True, steps=4, validation="test", validate_every=2, validation_prompts=2)
    held = []

    def refresh(self):
        held.append({name: weight.clone() for name, weight in self.trainable.merged().items()})
        self.engine.load(held[-2] if len(held) > 1 else held[0])

    with monkeypatch.context() as patch:
        patch.setattr(_online.Steps, "refresh", refresh)
        slow, slowly = run("online", replace(stage, **places(tmp_path, "slow")), steps=4)
    assert completions(updates) == completions(slowly)
    same(model_of(stage), model_of(slow))
    _, sequential = run("online", replace(stage, **places(tmp_path, "plain")), steps=4)
    assert sequential[:1] == slowly[:1]
    assert sequential[1:] != slowly[1:]  # the delay is seen


def test_ppo_answers_are_of_the_weights_before_and_count_by_the_ratio_to_them(run, monkeypatch, tmp_path):
    settings = {"overlap": True, "steps": 4, "importance_cap": 1e9, "validate_every": 2}
    stage, updates = run("ppo", **settings)
    policies = []
    with monkeypatch.context() as patch:
        patch.setattr(_ppo.Reinforcement, "drawn", late(policies))
        slow, slowly = run("ppo", replace(stage, **places(tmp_path, "slow")), **settings)
    assert completions(updates) == completions(slowly)
    same(model_of(stage), model_of(slow))
    assert read_lines(stage.folder / "metrics.jsonl") == read_lines(slow.folder / "metrics.jsonl")
    assert len(updates) == len(policies) == 4
    for step, trees in enumerate(updates):
        new_N, old_N = (logps(stage, policies[s], trees) for s in (step, max(0, step - 1)))
        found = {name: torch.cat([tree.token_values[name] for tree in trees]) for name in (OLD, WEIGHT)}
        torch.testing.assert_close(found[OLD], new_N, atol=1e-4, rtol=1e-4)  # rho starts at 1,
        torch.testing.assert_close(found[WEIGHT], (new_N - old_N).exp(), atol=1e-3, rtol=1e-3)  # and w rho at pi / mu
        assert bool((found[WEIGHT] - 1).abs().max() > 0.01) == (step > 0)


def logps(stage, weights, trees):
    """Log-probs under a policy of its own."""
    model = load_policy(stage.models["base"])
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    policy = TreePolicy(model).eval()
    (logp_N,) = read_tokens(lambda batch: (policy(batch),), trees, 500, "cpu")
    return logp_N


def test_the_ratio_is_capped_and_without_overlap_there_is_none(run, monkeypatch, tmp_path):
    stage, updates = run("ppo", overlap=True, importance_cap=1.05)
    weight_N = torch.cat([tree.token_values[WEIGHT] for own in updates for tree in own])
    assert float(weight_N.max()) == pytest.approx(1.05)
    assert all("importance" in row for row in read_lines(stage.folder / "metrics.jsonl") if "loss" in row)
    monkeypatch.setattr(Ahead, "start", lambda *_: pytest.fail("nothing is drawn ahead"))
    plain, updates = run("ppo", replace(stage, **places(tmp_path, "plain")))
    assert all(bool((tree.token_values[WEIGHT] == 1).all()) for own in updates for tree in own)
    assert all("engine_gap" in row for row in read_lines(plain.folder / "metrics.jsonl") if "loss" in row)


@pytest.mark.parametrize(
    ("kind", "more", "every", "dies_in"),
    [
        *(("online", {"nash": {}}, every, dies_in) for every in (1, 2) for dies_in in (1, 2, 3)),
        ("ppo", {"collapse": {"action": "warn"}}, 1, 2),
        ("ppo", {"collapse": {"action": "warn"}, "lora": {"r": 2}}, 2, 3),
        ("ppo", BACK, 2, 3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_an_overlapped_training_goes_on_to_the_same_bits(kind, more, every, dies_in, run, tmp_path, monkeypatch):
    settings = {"overlap": True, "steps": 5, "checkpoint_every": every, **more}
    stage, _ = run(kind, **settings)
    second = replace(stage, **places(tmp_path, "second"))
    with dying(monkeypatch, MasterWeights, "update", lambda number, *_: number == dies_in):
        run(kind, replace(second), **settings)
    _, updates = run(kind, second, **settings)
    assert len(updates) == 5 - dies_in // every * every
    same(model_of(second), model_of(stage))
    assert read_lines(second.folder / "metrics.jsonl") == read_lines(stage.folder / "metrics.jsonl")
    if more is BACK:
        assert "with twice the KL coefficient" in stage.voice.stream.getvalue()


def drawn(step):
    return [[[Completion((step,), (0.5,), str(step), True)]]]


def test_a_kill_between_answers_and_checkpoint_loses_neither(tmp_path):
    ahead = Ahead(drawn, tmp_path, Processes())
    for step in range(3):
        ahead.take(step)
        ahead.start(step + 1)
        ahead.state()
        kept = sorted(int(file.stem) for file in (tmp_path / "ahead").iterdir())
        assert kept == ([1] if step == 0 else [step, step + 1])
    ahead.close()
    after = Ahead(lambda step: pytest.fail("nothing is drawn again"), tmp_path, Processes())
    assert after.take(2) == drawn(2)


def test_what_was_begun_by_a_policy_that_is_left_is_drawn_anew(tmp_path):
    calls = []
    ahead = Ahead(lambda step: calls.append(step) or drawn(step), tmp_path, Processes())
    ahead.start(1)
    assert ahead.begun
    ahead.drop()
    assert not ahead.begun
    assert ahead.state() == {}
    assert not (tmp_path / "ahead").exists()
    assert ahead.take(1) == drawn(1)
    assert calls == [1, 1]
    ahead.close()


def test_only_the_main_process_draws(tmp_path):
    class Other:
        is_main = False

        def on_main(self, function):
            return "what the main process sends"

    ahead = Ahead(lambda step: pytest.fail("another process draws nothing"), tmp_path, Other())
    ahead.start(1)
    assert not ahead.begun
    assert ahead.take(1) == "what the main process sends"
    ahead.close()
