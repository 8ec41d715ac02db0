"""Experiment trackers get what is logged, by the names Accelerate has for them."""

from dataclasses import replace
from typing import ClassVar

import pytest

from sawyer.errors import SawyerError
from sawyer.pipeline.context import Context
from sawyer.pipeline.stages._common import TrainingSettings, training_needs
from sawyer.pipeline.trackers import Trackers


@pytest.fixture
def context(tmp_path):
    for name in ("folder", "scratch"):
        (tmp_path / name).mkdir()
    return Context("sft", tmp_path / "folder", tmp_path / "scratch", seed=0, tracker_folder=tmp_path / "trackers")


def test_tensorboard_gets_every_number(context, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    context.track(["tensorboard"])
    for step in (1, 2, 3):
        context.log(step=step, loss=1.0 / step, note="text is left out")
    context.close()
    (events,) = {file.parent for file in (tmp_path / "trackers").rglob("events*")}
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert [(e.step, round(e.value, 3)) for e in accumulator.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.333)]
    assert not list((tmp_path / "folder").rglob("events*"))


class Remembering:
    """A tracker that keeps projects, as W&B does: it drops what comes under a step lower than the last."""

    requires_logging_directory = False
    made: ClassVar[list["Remembering"]] = []

    def __init__(self, project, name=None):
        self.project, self.name, self.kept, self.finished = project, name, [], False
        self.made.append(self)

    def start(self):
        pass

    def log(self, values, step):
        if not self.kept or step >= self.kept[-1][0]:
            self.kept.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def remembering(monkeypatch):
    from accelerate import tracking

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Remembering)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    Remembering.made.clear()
    return Remembering.made


def iterations(context, numbers):
    """What stage `iterate` logs: updates counted from 1, then the iteration's figures."""
    for number in numbers:
        for step in (1, 2, 3):
            context.log(step=step, loss=number + step / 10)
        context.log(iteration=number, reward=0.5)


def test_steps_go_on_over_iterations(context, remembering):
    context.track(["wandb"])
    iterations(context, (1, 2))
    assert [step for step, _ in remembering[0].kept] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [values["iteration"] for _, values in remembering[0].kept if "iteration" in values] == [1, 2]
    assert [values["loss"] for _, values in remembering[0].kept if "loss" in values] == [1.1, 1.2, 1.3, 2.1, 2.2, 2.3]


def test_steps_go_on_where_a_killed_stage_continues(context, remembering):
    iterations(context, (1,))
    context.log(step=1, loss=2.1)
    checkpoint = context.position()
    context.log(step=2, loss=2.2)
    again = replace(context)
    again.track(["wandb"])
    again.rewind(checkpoint)
    again.log(step=2, loss=2.2)
    assert [step for step, _ in remembering[0].kept] == [6]


def test_a_project_is_a_run_and_a_run_in_it_a_stage(context, remembering, tmp_path):
    context.track(["wandb"])
    assert (remembering[0].project, remembering[0].name) == (tmp_path.name, "sft")
    context.close()
    assert remembering[0].finished


def test_an_unknown_tracker_is_named_with_the_nearest(tmp_path):
    with pytest.raises(SawyerError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        Trackers(["tensorbord"], "run", tmp_path, tmp_path / "metrics.jsonl")


def test_a_tracker_that_is_not_installed_says_so(tmp_path):
    with pytest.raises(SawyerError, match="'comet_ml' is not installed"):
        Trackers(["comet_ml"], "run", tmp_path, tmp_path / "metrics.jsonl")


def test_full_training_needs_more_memory_than_adapters():
    full, adapters = TrainingSettings(), TrainingSettings(lora={})
    assert training_needs(full, 10**9)["memory_gb"] == pytest.approx(21)
    assert training_needs(adapters, 10**9)["memory_gb"] == pytest.approx(6)
    assert training_needs(full, 0)["memory_gb"] == 0
    alone = TrainingSettings(lora={"merge": False})
    assert training_needs(alone, 10**9)["disk_gb"] < training_needs(adapters, 10**9)["disk_gb"] / 10
