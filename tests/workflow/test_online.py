"""Stage `online`: each update is on answers of the policy as it is, and nothing is lost to a kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.data.files import write_records
from sawyer.data.verifiable import make_prompts
from sawyer.feedback.rules import VerifiableReward
from sawyer.pipeline.stages import _online, online
from sawyer.train import loop
from sawyer.train.preference import OPTIMISM, REFERENCE, SCORE
from sawyer.trees.score import score_trees

ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day")]
SMALL = {
    "model": "base", "data": "prompts", "reward": "reward", "part": "test", "steps": 3, "batch_size": 3,
    "sampling": {"max_tokens": 6}, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def run(context, reward, monkeypatch):
    """`run(**settings)`: the stage, the trees of each update, and the figures."""
    seen = []

    def forward_backward(model, batch, *rest):
        seen.append(list(batch))
        return original(model, batch, *rest)

    original = loop.forward_backward
    monkeypatch.setattr(loop, "forward_backward", forward_backward)

    def call(stage=None, **settings):
        stage = stage or context(ASKED, reward=reward)
        seen.clear()
        figures = online.run(online.Settings(**{**SMALL, **settings}), stage)
        return stage, list(seen), figures

    return call


def logged(stage):
    return [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]


def test_each_update_has_pairs_of_the_policy_with_their_reference(run):
    stage, updates, figures = run(n=4)
    rows = [row for row in logged(stage) if "score" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["pairs"] for row in rows] == [len(trees) for trees in updates]
    assert all({REFERENCE, SCORE} == set(tree.values) for trees in updates for tree in trees)
    assert all(tree.values[SCORE][0] > tree.values[SCORE][1] for trees in updates for tree in trees)
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # the policy is its reference before the first update
    assert abs(rows[2]["margin"]) > 1e-3
    assert figures["updates"] == 3
    assert (stage.folder / "model.safetensors").exists()


def test_the_engine_has_the_weights_of_the_update_before(run, monkeypatch):
    given = []
    refresh = _online.Steps.refresh

    def watched(self):
        refresh(self)
        own = {name: p.detach().clone() for name, p in self.trainable.model.named_parameters()}
        held = dict(self.engine._model.named_parameters())
        given.append(all(torch.equal(held[name], value) for name, value in own.items() if not held[name].is_meta))

    monkeypatch.setattr(_online.Steps, "refresh", watched)
    run()
    assert given == [True] * 3


def test_a_killed_training_goes_on_to_the_same_weights(run, tmp_path, monkeypatch):
    stage, _, _ = run(checkpoint_every=1)
    whole = load_file(stage.folder / "model.safetensors")

    class Killed(Exception):
        pass

    step = _online.Steps.step

    def dies(self, number):
        if number == 2:
            raise Killed
        return step(self, number)

    places = {name: tmp_path / f"second-{name}" for name in ("folder", "scratch")}
    for place in places.values():
        place.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(_online.Steps, "step", dies)
        with pytest.raises(Killed):
            run(replace(stage, **places), checkpoint_every=1)
    second = replace(stage, **places)
    _, updates, _ = run(second, checkpoint_every=1)
    assert len(updates) == 1
    again = load_file(second.folder / "model.safetensors")
    assert all(torch.equal(whole[name], value) for name, value in again.items())
    assert [row.get("loss") for row in logged(second)] == [row.get("loss") for row in logged(stage)]


def test_the_gold_reward_itself(run, context):
    stage = context(["x"])
    write_records(Path(stage.artifacts["prompts"].folder) / "test.jsonl", make_prompts(4, "test"))
    _, updates, _ = run(stage, reward=None, gold="verifiable", n=4, sampling={"max_tokens": 12})
    assert sum(map(len, updates)) > 0
    assert all(0 <= score <= 1 for trees in updates for tree in trees for score in tree.values[SCORE])


def test_prompts_whose_answers_score_the_same_change_nothing(run, context, monkeypatch):
    monkeypatch.setattr(VerifiableReward, "score", lambda self, prompts, texts: [[0.5] * len(own) for own in texts])
    stage = context(ASKED)
    _, updates, _ = run(stage, reward=None, gold="verifiable")
    assert updates == []
    assert [row["pairs"] for row in logged(stage)] == [0.0] * 3


def test_held_out_prompts_are_scored_on_the_way_and_at_the_end(run):
    stage, _, figures = run(validation="test", validate_every=2, validation_prompts=4)
    rows = [row for row in logged(stage) if "validation_reward" in row]
    assert [row["step"] for row in rows] == [3, 3]
    assert figures["validation_reward"] == rows[-1]["validation_reward"]


def test_xpo_pairs_the_policy_with_the_reference_and_pushes_the_latter_down(run):
    _, updates, _ = run(optimism={"kind": "xpo", "alpha": 0.1})
    trees = [tree for own in updates for tree in own]
    assert all(sorted(tree.values[OPTIMISM]) == pytest.approx([0.0, 0.1]) for tree in trees)
    assert all(len(tree.completions) == 2 for tree in trees)


@pytest.mark.parametrize("kind", ["selm", "vpo"])
def test_selm_and_vpo_add_an_answer_of_the_reference_that_belongs_to_no_pair(kind, run):
    _, updates, _ = run(optimism={"kind": kind, "alpha": 0.5}, options={"beta": 0.2})
    trees = [tree for own in updates for tree in own]
    assert all(tree.values[OPTIMISM] == pytest.approx([0.0, 0.0, 0.1]) for tree in trees)
    assert all(len(tree.completions) == 3 for tree in trees)


def test_the_reference_stays_the_first_policy(run, monkeypatch):
    held = []

    def scored(model, trees, **settings):
        held.append(model)
        return score_trees(model, trees, **settings)

    monkeypatch.setattr(_online, "score_trees", scored)
    _, updates, _ = run()
    assert len({id(model) for model in held}) == 1
    trees = updates[-1]
    again = score_trees(held[0], trees)
    for tree, logps in zip(trees, again, strict=True):
        assert tree.values[REFERENCE] == pytest.approx(logps, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": None}, "give `reward`, a model, or `gold: verifiable`"),
        ({"gold": "verifiable"}, "and not both"),
        ({"n": 1}, "greater than or equal to 2"),
        ({"epochs": 2}, "`epochs` has no place here"),
        ({"validate_every": 2}, "name a part with `validation`"),
        ({"loss": "infonca"}, "`online` learns from pairs"),
        ({"n": 4, "optimism": {"kind": "xpo"}}, "leave `n` at 2"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        online.Settings(**{**SMALL, **settings})
