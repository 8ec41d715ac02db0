"""`summary.json`: the state and the headline numbers of a run, and the reading of it while the run goes on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from sawyer.errors import SawyerError
from sawyer.pipeline.files import read_json, write_json
from sawyer.pipeline.nearest import did_you_mean

SUMMARY = "summary.json"
WORK = ".work"
LOCK = "lock"


class Summary:
    """The run's `summary.json`, rewritten at every change.

    `state` of a run or stage: `waiting`, `running`, `interrupted`, `failed` or `finished`. Seconds are those of all
    sessions together. `seed` is the recipe's.
    """

    def __init__(
        self, run: Path, recipe: str, title: str, seed: int, command: str, stages: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.path = run / SUMMARY
        self.value: dict[str, Any] = {
            "recipe": recipe,
            "title": title,
            "seed": seed,
            "command": command,
            "state": "running",
            "started": now(),
            "updated": now(),
            "wall_seconds": 0.0,
            "stages": {name: {**entry, "state": "waiting"} for name, entry in stages.items()},
        }

    def stage(self, name: str, state: str, **facts: Any) -> None:
        """A stage came to a new state; writes the file."""
        self.value["stages"][name] |= {"state": state, **facts}
        self.write(self.value["state"])

    def write(self, state: str, **facts: Any) -> None:
        """The run came to a state; writes the file."""
        seconds = sum(stage.get("wall_seconds", 0.0) for stage in self.value["stages"].values())
        self.value |= {"state": state, "updated": now(), "wall_seconds": round(seconds, 3), **facts}
        write_json(self.path, self.value)


def now() -> str:
    """The present time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def take_lock(run: Path) -> TextIO:
    """Hold the run folder for this process until the returned file is closed, or the process ends in any way.

    Raises:
        SawyerError: another process holds it.
    """
    file = (run / WORK / LOCK).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SawyerError(
            f"{run} is in use by another sawyer run; wait until it ends, or give another place with --out"
        ) from error
    return file


def is_locked(run: Path) -> bool:
    """Whether a process is at work in a run folder."""
    path = run / WORK / LOCK
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def read_summary(run: str | Path) -> dict[str, Any]:
    """The summary of a run, given its folder or its name in `runs/`; what was running in a killed run is interrupted.

    Raises:
        SawyerError: there is no such run.
    """
    folder = find_run(run)
    summary = read_json(folder / SUMMARY)
    if not isinstance(summary, dict):
        raise SawyerError(f"{folder / SUMMARY} is damaged; run the recipe again with --out {folder} to write it anew")
    if summary["state"] == "running" and not is_locked(folder):
        summary["state"] = "interrupted"
    for name, stage in summary["stages"].items():
        if stage["state"] == "running":
            stage["state"] = summary["state"]
            stage |= {k: v for k, v in (read_json(folder / WORK / name / "state.json") or {}).items() if "seconds" in k}
    return {"folder": str(folder), **summary}


def training(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What each finished stage took, by the policy that it made: `seconds`, and `gold_labels` where it paid for some.

    Of the iterates of one stage only the whole is known, under the stage's name. It stands in no artifact: an artifact
    is the same however long it took.
    """
    told = {}
    for name, stage in stages.items():
        if stage.get("makes") == "policy" and stage["state"] == "finished":
            labels = stage.get("figures", {}).get("gold_labels")
            told[name] = {"seconds": stage["wall_seconds"], **({} if labels is None else {"gold_labels": labels})}
    return told


def find_run(run: str | Path) -> Path:
    """The folder of a run, given as such or by its name in `runs/`.

    Raises:
        SawyerError: there is no such run; the nearest name in `runs/` is offered.
    """
    for folder in (Path(run), Path("runs") / run):
        if (folder / SUMMARY).is_file():
            return folder
    known = [path.parent.name for path in sorted(Path("runs").glob(f"*/{SUMMARY}"))]
    problem = "is not a run folder, it has no summary.json" if Path(run).is_dir() else "is no run"
    suggestion = did_you_mean(Path(run).name, known, "the runs here are") or "; make one with `sawyer run RECIPE`"
    raise SawyerError(f"{run} {problem}{suggestion}")
