"""Experiment trackers get what is logged, by the names Accelerate has for them."""

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


def test_an_unknown_tracker_is_named_with_the_nearest(tmp_path):
    with pytest.raises(SawyerError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        Trackers(["tensorbord"], "run", tmp_path)


def test_a_tracker_that_is_not_installed_says_so(tmp_path):
    with pytest.raises(SawyerError, match="'comet_ml' is not installed"):
        Trackers(["comet_ml"], "run", tmp_path)


def test_full_training_needs_more_memory_than_adapters():
    full, adapters = TrainingSettings(), TrainingSettings(lora={})
    assert training_needs(full, 10**9)["memory_gb"] == pytest.approx(21)
    assert training_needs(adapters, 10**9)["memory_gb"] == pytest.approx(6)
    assert training_needs(full, 0)["memory_gb"] == 0
