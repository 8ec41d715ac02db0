"""Experiment trackers by name, as Accelerate knows them: tensorboard, wandb, mlflow, trackio, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError
from sawyer.pipeline.nearest import did_you_mean


class Trackers:
    """The trackers of one stage; give it every line of figures.

    Args:
        names: which trackers.
        title: what they call this run.
        folder: where trackers that write files put them; outside of any artifact, since event files hold times.

    Raises:
        SawyerError: a name is not known, or its package is not installed.
    """

    def __init__(self, names: Sequence[str], title: str, folder: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        available = [str(getattr(name, "value", name)) for name in get_available_trackers()]
        self._trackers = []
        for name in names:
            if name not in LOGGER_TYPE_TO_CLASS:
                nearest = did_you_mean(name, LOGGER_TYPE_TO_CLASS, "the trackers are")
                raise SawyerError(f"there is no tracker '{name}'{nearest}")
            if name not in available:
                raise SawyerError(
                    f"the tracker '{name}' is not installed; pip install it, or leave it out of `trackers`"
                )
            kind = LOGGER_TYPE_TO_CLASS[name]
            tracker = kind(title, logging_dir=folder) if kind.requires_logging_directory else kind(title)
            tracker.start()
            self._trackers.append(tracker)
        self._lines = 0

    def log(self, figures: Mapping[str, Any]) -> None:
        """The numbers of one line, under its `step` (or the line's number where it has none)."""
        self._lines += 1
        step = figures.get("step", self._lines)
        numbers = {k: float(v) for k, v in figures.items() if isinstance(v, (int, float)) and k != "step"}
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
