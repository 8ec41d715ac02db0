"""Killed and continued equals never killed, bit for bit; two processes equal one."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file

from sawyer.journal import Silent
from sawyer.train import objectives
from sawyer.train.checkpoints import Companion
from sawyer.train.loop import train
from sawyer.trees.model import TreePolicy
from tests.lives import Killed, Mortal, in_two_processes, killed_at_random, read_lines, same, without_speed
from tests.train import ppo_toy, resumable

PROGRAM = ["-m", "tests.train.resumable"]


@pytest.fixture
def session(policy, toy, optimizer):
    """`session(journal, scratch, precision, ...)`: one life of a training of six updates."""

    def run(journal, scratch, precision="fp32", model=policy, **changes):
        settings = optimizer(**{"checkpoint_every": 2, "validate_every": 3, "token_budget": 40, **changes})
        return train(
            model(), toy(values=(objectives.REFERENCE,)), objectives.dpo(), settings, precision=precision, seed=5,
            journal=journal, title="dpo", scratch=scratch, validation=toy(3, seed=7, values=(objectives.REFERENCE,)),
        )  # fmt: skip

    return run


@pytest.mark.parametrize("when", ["log", "advance"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_equals_uninterrupted_wherever_it_was_killed(precision, when, session, tmp_path):
    whole = Mortal()
    expected = session(whole, tmp_path / "whole", precision)
    for step in range(1, 7):
        scratch, journal = tmp_path / f"{step}", Mortal(step, when)
        with pytest.raises(Killed):
            session(journal, scratch, precision)
        journal.dies_at = None
        found = session(journal, scratch, precision)
        same(found.weights.state(), expected.weights.state())
        assert found.figures == expected.figures
        assert without_speed(journal.lines) == without_speed(whole.lines)
        assert journal.started_from == [0, (step - 1) // 2 * 2]


def test_the_figures_of_the_last_updates_outlive_a_kill(session, tmp_path):
    """The headline figures are means over the last tenth of the updates, some of which a former session made."""
    settings = {"steps": 20, "checkpoint_every": 19}
    expected = session(Mortal(), None, **settings)
    journal = Mortal(20)
    with pytest.raises(Killed):
        session(journal, tmp_path, **settings)
    journal.dies_at = None
    found = session(journal, tmp_path, **settings)
    assert journal.started_from == [0, 19]
    assert found.figures == expected.figures


def test_killed_twice_and_resumed_twice(session, tmp_path):
    expected = session(Mortal(), None)
    journal = Mortal()
    for step in (3, 6):
        journal.dies_at = step
        with pytest.raises(Killed):
            session(journal, tmp_path)
    journal.dies_at = None
    same(session(journal, tmp_path).weights.state(), expected.weights.state())
    assert [line["step"] for line in journal.lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_random_draws_go_on_where_they_stopped(session, tiny_policy, tmp_path):
    """Dropout in adapters draws from torch's generator at each update."""

    def adapted() -> TreePolicy:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = LoraConfig(
                r=4,
                lora_dropout=0.3,
                target_modules="all-linear",
                task_type=TaskType.CAUSAL_LM,
                init_lora_weights=False,
            )
            return TreePolicy(get_peft_model(tiny_policy("llama"), config))

    expected = session(Mortal(), None, model=adapted)
    journal = Mortal(4)
    with pytest.raises(Killed):
        session(journal, tmp_path, model=adapted)
    journal.dies_at = None
    torch.rand(7)
    same(session(journal, tmp_path, model=adapted).weights.state(), expected.weights.state())


class Beside(Companion):
    """A companion that changes with every update that the source makes."""

    def __init__(self) -> None:
        self.sum = torch.zeros(2)

    def state(self) -> dict[str, torch.Tensor]:
        return {"sum": self.sum}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.sum = tensors["sum"].clone()


def test_a_companion_is_where_it_was(policy, toy, optimizer, tmp_path):
    """What the source trains beside the model is part of the checkpoints."""
    trees = toy(values=(objectives.REFERENCE,))

    def run(journal, scratch):
        beside = Beside()

        def source(step):
            beside.sum = beside.sum * 0.5 + step
            return trees[step : step + 2], {"beside": float(beside.sum[0]), **({"late": 1.0} if step == 5 else {})}

        trained = train(
            policy(), source, objectives.dpo(), optimizer(steps=6, checkpoint_every=2), precision="fp32", seed=5,
            journal=journal, title="dpo", scratch=scratch, companions=[beside],
        )  # fmt: skip
        return trained, beside

    whole = Mortal()
    expected, theirs = run(whole, tmp_path / "whole")
    assert expected.figures["late"] == 1.0  # a figure that only one of the last updates has
    for step in (3, 5):
        journal = Mortal(step)
        with pytest.raises(Killed):
            run(journal, tmp_path / str(step))
        journal.dies_at = None
        found, ours = run(journal, tmp_path / str(step))
        assert torch.equal(ours.sum, theirs.sum)
        same(found.weights.state(), expected.weights.state())
        assert without_speed(journal.lines) == without_speed(whole.lines)


def test_figures_that_some_updates_lack_are_means_of_the_others(policy, toy, optimizer):
    trees = toy(values=(objectives.REFERENCE,))
    source = lambda step: (trees[:2], {"now_and_then": float(step)} if step % 2 else {})
    settings = optimizer(steps=40)
    trained = train(
        policy(), source, objectives.dpo(), settings, precision="fp32", seed=5, journal=Mortal(), title="dpo"
    )
    assert trained.figures["now_and_then"] == (37 + 39) / 2


@pytest.mark.parametrize("call", range(1, 7))
def test_killed_while_a_file_moves_into_place(call, session, tmp_path, monkeypatch):
    expected = session(Mortal(), None)
    calls, rename = [], Path.rename

    def dying(self, target):
        calls.append(self.name)
        if len(calls) == call:
            raise Killed
        return rename(self, target)

    journal = Mortal()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            session(journal, tmp_path, checkpoint_every=1)
    same(session(journal, tmp_path, checkpoint_every=1).weights.state(), expected.weights.state())
    assert journal.started_from[-1] >= (call - 2) // 2  # a good checkpoint is never lost
    assert [line["step"] for line in journal.lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_several_processes_may_look_for_the_same_checkpoint(session, tmp_path, optimizer, policy, monkeypatch):
    """After a kill between two renames each process finds the older checkpoint, and none takes it from the others."""
    from sawyer.train.checkpoints import Checkpoints
    from sawyer.train.optim import MasterWeights

    session(Mortal(), tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    renamed = []
    monkeypatch.setattr(Path, "rename", lambda self, target: renamed.append(self))
    for writes in (True, False):
        weights = MasterWeights(policy(), optimizer(), "fp32")
        assert Checkpoints(tmp_path, 2, writes=writes).resume(weights, Silent())[0] == 4
    assert not renamed


def _killed_once(scratch: Path) -> None:
    """Kills the update after the first checkpoint."""
    if (scratch / "checkpoint").exists():
        raise Killed


def test_kill_9_at_a_random_moment(tmp_path):
    steps = 150
    resumable.run("sft", tmp_path / "whole", steps=steps, token_budget=64, checkpoint_every=3)
    program = [*PROGRAM, str(tmp_path), "--steps", str(steps)]
    killed_at_random(program, tmp_path / "sft-64" / "metrics.jsonl", 120)
    resumable.run("sft", tmp_path / "sft-64", steps=steps, token_budget=64, checkpoint_every=3)
    same(load_file(tmp_path / "sft-64/weights.safetensors"), load_file(tmp_path / "whole/weights.safetensors"))
    assert read_lines(tmp_path / "sft-64/metrics.jsonl") == read_lines(tmp_path / "whole/metrics.jsonl")


def test_two_processes_equal_one(tmp_path, monkeypatch):
    """Also with a budget that puts a whole update into one row, which leaves the second process idle, and where the two
    continue what one began."""
    kinds, budgets = ["sft", "dpo", "reward", "moving"], [40, 4096]
    with monkeypatch.context() as patch:
        patch.setattr(resumable.OnDisk, "advance", lambda *_, **fields: _killed_once(tmp_path / "two/dpo-40/scratch"))
        with pytest.raises(Killed):
            resumable.run("dpo", tmp_path / "two/dpo-40", steps=4, token_budget=40, checkpoint_every=2)
    in_two_processes([*PROGRAM, str(tmp_path / "two"), "--kinds", *kinds, "ppo", "--budgets", *map(str, budgets)])
    _same_reinforcement(tmp_path)
    for kind in kinds:
        for budget in budgets:
            name = f"{kind}-{budget}"
            resumable.run(kind, tmp_path / "one" / name, steps=4, token_budget=budget, checkpoint_every=3)
            one, two = (load_file(tmp_path / n / name / "weights.safetensors") for n in ("one", "two"))
            for key, value in one.items():
                torch.testing.assert_close(two[key], value, atol=1e-6, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
            logs = [read_lines(tmp_path / n / name / "metrics.jsonl") for n in ("one", "two")]
            for ours, theirs in zip(*logs, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def _same_reinforcement(tmp_path):
    """PPO draws with the weights that it trains, so that rounding shows sooner."""
    ppo_toy.run(tmp_path / "one/ppo", steps=4)
    one, two = (load_file(tmp_path / n / "ppo/weights.safetensors") for n in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")
    for ours, theirs in zip(*(read_lines(tmp_path / n / "ppo/metrics.jsonl") for n in ("one", "two")), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
