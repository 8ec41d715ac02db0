"""Stage `preference`: any loss by name on the data that it needs, and one sentence where they do not fit."""

import json

import pytest
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from sawyer.data.records import Comparison, Labelled, user
from sawyer.errors import SawyerError
from sawyer.losses.registry import LOSSES
from sawyer.pipeline.stages.dpo import STAGE as DPO
from sawyer.pipeline.stages.preference import STAGE, Settings

SMALL = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "max_tokens": 250, "data": "pairs"}


def rankings(n):
    return [Comparison((user(f"{i}?"),), ("+++", "+-", "--"), (0.9, 0.5, 0.1)) for i in range(n)]


def labelled(n):
    return [Labelled((user(f"{i}?"),), "+++" if i % 2 else "---", bool(i % 2)) for i in range(n)]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_every_loss_runs_by_name(loss, saved_policy, run_stage, pairs):
    records = {"pairs": pairs(8), "rankings": rankings(8), "labelled": labelled(8)}[loss.data]
    if loss.name in ("sppo", "dno"):
        records = rankings(8)
    data = {"pairs": {"train": records, "test": records[:4]}}
    folder, figures = run_stage(STAGE, saved_policy(), data, loss=loss.name, validation="test", **SMALL)
    assert figures["updates"] == 3
    assert figures[{"labelled": "completions"}.get(loss.data, loss.data)] == 8
    assert figures["validation_loss"] == figures["validation_loss"]  # a number
    AutoModelForCausalLM.from_pretrained(folder)


def test_it_is_dpo_where_dpo_is_asked_for(saved_policy, run_stage, pairs):
    data = {"pairs": {"train": pairs(8)}}
    settings = {**SMALL, "beta": 0.3}
    one = run_stage(DPO, saved_policy(), data, **settings)[1]
    other = run_stage(STAGE, saved_policy(), data, loss="dpo", options={"beta": 0.3}, **SMALL)[1]
    assert one == other
    smoothed = run_stage(DPO, saved_policy(), data, **settings, label_smoothing=0.1)[1]
    conservative = run_stage(STAGE, saved_policy(), data, loss="cdpo", options={"beta": 0.3}, **SMALL)[1]
    assert smoothed == conservative != one


def test_several_losses(saved_policy, run_stage, pairs):
    mix = [{"name": "dpo", "options": {"beta": 0.2}}, {"name": "nll", "weight": 0.5}]
    folder, figures = run_stage(STAGE, saved_policy(), {"pairs": {"train": pairs(8)}}, loss=mix, **SMALL)
    assert figures["loss"] > 0.7  # DPO alone begins at log 2
    assert json.loads((folder / "config.json").read_text())


def test_pairs_are_two_labels_for_kto(saved_policy, run_stage, pairs):
    _, figures = run_stage(STAGE, saved_policy(), {"pairs": {"train": pairs(6)}}, loss="kto", **SMALL)
    assert figures["completions"] == 12


def test_losses_without_a_reference_load_none(saved_policy, run_stage, pairs, monkeypatch):
    from sawyer.train import reference

    monkeypatch.setattr(reference, "with_reference", lambda *args, **kwargs: pytest.fail("no reference is needed"))
    run_stage(STAGE, saved_policy(), {"pairs": {"train": pairs(6)}}, loss="simpo", **SMALL)


@pytest.mark.parametrize(
    ("records", "loss", "message"),
    [
        ([Labelled((user("a"),), "x", True)] * 4, "kto", "all 4 of pairs/train are alike: give both kinds"),
        (
            [Labelled((user("a"),), "x", True)] * 4,
            "dpo",
            "the loss dpo learns from comparisons, and part 'train' of pairs holds single completions with a label",
        ),
        ([Comparison((user("a"),), ("x", "y"))] * 4, "dno", "the loss dno needs the `scores` of all completions, and"),
        ([Comparison((user("a"),), ("x", "y"), (3, 1))] * 4, "sppo", "takes scores for probabilities of winning"),
    ],
)
def test_data_that_a_loss_cannot_use(records, loss, message, saved_policy, run_stage):
    with pytest.raises(SawyerError, match=message):
        run_stage(STAGE, saved_policy(), {"pairs": {"train": records}}, loss=loss, **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "simp0"}, "there is no loss called 'simp0'; did you mean 'simpo'"),
        ({"loss": "simpo", "options": {"delta": 1}}, "the loss simpo has no option 'delta'; it takes beta, gamma"),
        ({"loss": "simpo", "reference": "base"}, "with simpo there is no reference, and `reference` is set"),
        ({"loss": []}, "name at least one loss"),
        ({"loss": [{"name": "kto"}, {"name": "dpo"}]}, "cannot be mixed with losses of pairs"),
        ({"loss": [{"name": "dpo"}], "options": {"beta": 1}}, "each has its own `options`"),
        ({"loss": [{"name": "dpo", "weight": 0}]}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        Settings(model="base", data="pairs", **settings)
