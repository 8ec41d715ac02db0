"""Stage `iterate`: what its options change of an iteration, on a tiny random model."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.data.files import read_records, write_records
from sawyer.data.records import Comparison, user
from sawyer.models.load import load_policy
from sawyer.pipeline.stages import _iterate, iterate
from sawyer.train.preference import REFERENCE, SCORE

ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day")]
SMALL = {
    "model": "base", "data": "prompts", "reward": "reward", "part": "test", "validation": "test", "iterations": 2,
    "prompts": 6, "validation_prompts": 3, "n": 4, "sampling": {"max_tokens": 6}, "batch_size": 3,
    "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def run(context, reward, monkeypatch):
    """`run(**settings)`: the stage, what each iteration was trained on and began with, and the figures."""
    began = []

    def train(model, trees, objective, settings, **rest):
        began.append((list(trees), {name: p.detach().float().clone() for name, p in model.named_parameters()}))
        return original(model, trees, objective, settings, **rest)

    original = _iterate.train
    monkeypatch.setattr(_iterate, "train", train)

    def call(**settings):
        stage = context(ASKED, reward=reward)
        offline = [Comparison((user(f"{i}?"),), (f"yes {i}", "no")) for i in range(5)]
        write_records(Path(stage.artifacts["prompts"].folder) / "pairs.jsonl", offline)
        figures = iterate.run(iterate.Settings(**{**SMALL, **settings}), stage)
        return stage, began, figures

    return call


def learned(stage, t):
    return load_file(stage.scratch / f"iteration-{t}" / _iterate.LEARNED)


def same(left, right):
    left, right = ({name.replace("model.", ""): value for name, value in own.items()} for own in (left, right))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def written(trees):
    return [[list(ids) for ids in tree.completions] for tree in trees]


def test_by_default_training_goes_on_and_the_reference_stays(run):
    stage, ((first, at_first), (second, at_second)), figures = run()
    assert same(at_second, learned(stage, 1))
    assert not same(at_second, at_first)
    assert [entry["pairs"] for entry in figures["iterations"]] == [len(first), len(second)]
    assert all(REFERENCE in tree.values and SCORE in tree.values for tree in [*first, *second])
    assert all(tree.values[SCORE][0] > tree.values[SCORE][1] for tree in [*first, *second])


def test_every_training_from_the_first_policy(run):
    _, ((_, at_first), (_, at_second)), _ = run(start="first")
    assert same(at_second, at_first)


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
def test_a_moving_reference_is_the_iterate_that_answers(run, lora):
    stage, (_, (second, _)), figures = run(reference="moving", lora=lora)
    ratios = figures["iterations"][1]
    assert ratios["pairs"] == len(second)
    metrics = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    starts = [row for row in metrics if row.get("step") == 1]
    assert len(starts) == 2
    for row in starts:  # the policy is its reference when an iteration begins
        assert row["loss"] == pytest.approx(0.693147, abs=1e-4)
        assert row["margin"] == pytest.approx(0, abs=1e-3)


def test_with_a_fixed_reference_the_second_iteration_begins_elsewhere(run):
    stage, _, _ = run()
    metrics = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    first, second = [row for row in metrics if row.get("step") == 1]
    assert first["margin"] == pytest.approx(0, abs=1e-3)
    assert abs(second["reward_chosen"]) > 1e-2


def test_earlier_pairs_are_trained_on_again(run):
    _, ((first, _), (second, _)), figures = run(replay=0.5)
    new = figures["iterations"][1]["pairs"]
    assert figures["iterations"][1]["trained_on"] == len(second) == new + min(len(first), round(0.5 * new))
    assert written(second[new:]) == written(first[: len(second) - new])


def test_offline_pairs_are_trained_on_too_the_next_ones_each_time(run):
    _, ((first, _), (second, _)), figures = run(offline={"data": "prompts", "part": "pairs", "share": 0.5})
    counts = [entry["pairs"] for entry in figures["iterations"]]
    added = [
        [tuple(tree.prompt) for tree in trees[count:]] for trees, count in zip((first, second), counts, strict=True)
    ]
    assert [len(own) for own in added] == [round(0.5 * count) for count in counts]
    assert added[0] != added[1]
    assert all(tree.values[SCORE] == [1.0, 0.0] for tree in first[counts[0] :])


def exact_kl(policy, reference, rows):
    """The mean over all positions of the completions, one after the other."""
    values = []
    for prompt, completions in rows:
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion]])
            with torch.no_grad():
                p, q = (model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (policy, reference))
            values += (p.exp() * (p - q)).sum(-1).tolist()
    return sum(values) / len(values)


def test_the_kl_is_from_the_first_policy_in_every_iteration_and_at_the_same_positions(run):
    stage, ((first, _), _), figures = run(kl_every=1, reference="moving")
    rows = json.loads((stage.scratch / "kl-trees.json").read_text())
    assert len(rows) == SMALL["batch_size"]
    asked = [(list(tree.prompt), [list(ids) for ids in tree.completions]) for tree in first]
    assert all((prompt, completions) in asked for prompt, completions in rows)
    base = load_policy(stage.models["base"])
    for t in (1, 2):
        policy = load_policy(stage.models["base"])
        policy.load_state_dict(learned(stage, t), strict=False)
        policy.tie_weights()
        assert figures["iterations"][t - 1]["kl"] == pytest.approx(exact_kl(policy, base, rows), rel=1e-3)
    lines = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    assert all("kl" in line for line in lines if "loss" in line)
    assert figures["iterations"][0]["kl"] > 1e-3


def test_another_loss_and_several(run):
    stage, _, figures = run(iterations=1, loss="simpo", options={"gamma": 0.5}, kl_every=0)
    assert not {"kl", "displacement"} & figures["iterations"][0].keys()
    assert not (stage.scratch / "kl-trees.json").exists()
    assert figures["iterations"][0]["accuracy"] >= 0


def test_losses_without_a_reference_compute_none(run, monkeypatch):
    monkeypatch.setattr(_iterate, "with_reference", lambda *args, **kwargs: pytest.fail("no reference is needed"))
    run(iterations=1, loss=[{"name": "cpo"}, {"name": "nll", "weight": 0.5}])


def test_learning_from_the_best_alone_is_fine_tuning(run, monkeypatch):
    monkeypatch.setattr(_iterate, "with_reference", lambda *args, **kwargs: pytest.fail("no reference is needed"))
    stage, ((first, _), _), figures = run(learn="best")
    assert all(len(tree.completions) == 1 and not tree.values for tree in first)
    pairs = read_records(stage.folder / "iterates" / "1" / "pairs.jsonl")
    assert len(pairs) == len(first) == figures["iterations"][0]["pairs"]


@pytest.mark.parametrize("settings", [{"replay": 1.0}, {"reference": "moving"}, {"start": "first"}, {"learn": "best"}])
def test_a_finished_iteration_is_not_made_again(run, context, reward, settings, monkeypatch):
    stage, _, figures = run(**settings)
    monkeypatch.setattr(_iterate, "train", lambda *args, **kwargs: pytest.fail("both iterations are finished"))
    again = iterate.run(iterate.Settings(**{**SMALL, **settings}), stage)
    assert again == figures


@pytest.mark.parametrize(
    "given", [{}, {"learn": "best"}, {"loss": "ipo"}, {"loss": "dpo", "options": {"beta": 0.2}}], ids=str
)
def test_settings_written_out_with_their_defaults_are_accepted(given):
    settings = iterate.Settings(**{**SMALL, **given})
    assert iterate.Settings(**settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learn": "best", "loss": "ipo"}, "has no use for 'loss'"),
        ({"learn": "best", "beta": 0.2}, "has no use for 'beta'"),
        ({"loss": "kto"}, "`iterate` learns from pairs"),
        ({"loss": "sppo"}, "rewards are none: set `scores: win_rates`"),
        ({"scores": "win_rates"}, "is for losses with scores"),
        ({"learn": "best", "scores": "win_rates"}, "has no use for 'scores'"),
        ({"learn": "best", "pairs": {"rule": "all"}}, "`pairs.rule: all` has several"),
        ({"explore": {"share": 1.0}}, "less than 1"),
        ({"explore": {"policies": 0}}, "greater than or equal to 1"),
        ({"n": 1}, "greater than or equal to 2"),
        ({"loss": "ipo", "beta": 0.2}, "`beta` is that of the loss dpo"),
        ({"loss": "dpo", "beta": 0.2, "options": {"beta": 0.1}}, "`beta` is that of the loss dpo"),
        ({"pairs": {"rule": "max"}}, "max_min"),
        ({"replay": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        iterate.Settings(**{**SMALL, **settings})
