"""Policies kept from the middle of a training."""

import torch
from safetensors.torch import load_file

from sawyer.journal import Silent
from sawyer.train import objectives
from sawyer.train.loop import train
from sawyer.train.snapshots import Snapshots


def test_a_snapshot_is_what_a_shorter_training_ends_in(policy, toy, optimizer, tmp_path):
    def run(steps, **companions):
        model = policy()
        own = [Snapshots({tmp_path / "two": 2}, lambda: dict(model.model.named_parameters()))] if companions else []
        settings = optimizer(steps=steps, schedule="constant", warmup_ratio=0.0)
        return train(
            model, toy(), objectives.sft(), settings, precision="fp32", seed=0, journal=Silent(), title="sft",
            companions=own,
        )  # fmt: skip

    run(4, snapshots=True)
    kept = load_file(tmp_path / "two")
    for name, value in run(2).weights.masters.items():
        assert torch.equal(kept[name.removeprefix("model.")], value), name
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_a_process_that_does_not_write_leaves_nothing(policy, tmp_path):
    keeps = Snapshots({tmp_path / "one": 1}, lambda: {"w": torch.ones(1)}, writes=False)
    assert keeps.after(1, last=True) == {}
    assert list(tmp_path.iterdir()) == []
