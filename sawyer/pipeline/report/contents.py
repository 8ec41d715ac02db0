"""What a run folder holds, read for the report: whatever is there, and nothing that has to be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError


@dataclass(frozen=True)
class Stage:
    """One stage's folder.

    Attributes:
        summary: its entry in `summary.json`: kind, state, wall seconds, figures.
        manifest: `manifest.json`: settings, seed, versions, hardware.
        metrics: the rows of `metrics.jsonl`.
        evaluation: `evaluation.json`, of policies or of a reward model.
        completions: the rows of `completions.jsonl`.
    """

    name: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    completions: tuple[Mapping[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        stage = self.manifest.get("stage")
        of_manifest = stage.get("kind") if isinstance(stage, Mapping) else None
        return str(self.summary.get("kind") or of_manifest or self.manifest.get("kind") or "")

    @property
    def state(self) -> str:
        return str(self.summary.get("state") or ("done" if self.manifest else "unknown"))

    @property
    def wall_seconds(self) -> float | None:
        seconds = self.summary.get("wall_seconds", self.manifest.get("wall_seconds"))
        return float(seconds) if isinstance(seconds, int | float) else None

    @property
    def figures(self) -> Mapping[str, Any]:
        figures = self.summary.get("figures") or self.manifest.get("figures") or {}
        return figures if isinstance(figures, Mapping) else {}

    @property
    def compares_policies(self) -> bool:
        return bool(self.evaluation.get("policies"))

    @property
    def judges_a_reward_model(self) -> bool:
        return "accuracy" in self.evaluation and "calibration" in self.evaluation


@dataclass(frozen=True)
class Run:
    """A run folder, its stages in the order of the workflow."""

    folder: Path
    summary: Mapping[str, Any]
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.folder.resolve().name)

    @property
    def title(self) -> str:
        return str(self.summary.get("title") or self.name)

    @property
    def command(self) -> str:
        commands = [self.summary.get("command"), *(stage.manifest.get("command") for stage in self.stages)]
        command = next((c for c in commands if c), "")
        return command if isinstance(command, str) else " ".join(map(str, command))


def read_run(folder: Path) -> Run:
    """Read a run. Missing files leave their part empty; a last line cut short by a kill is skipped.

    Raises:
        SawyerError: the folder is not there or holds no stage, or one of its JSON files is broken.
    """
    if not folder.is_dir():
        raise SawyerError(f"there is no run folder {folder}, give the folder that `sawyer run` wrote")
    summary = _read_object(folder / "summary.json")
    stages = summary.get("stages") or {}
    found = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith((".", "_")) and (path / "manifest.json").exists()
    )
    names = [*stages, *(name for name in found if name not in stages)]
    if not names:
        raise SawyerError(f"{folder} holds no finished stage, so there is nothing to report yet")
    return Run(folder, summary, tuple(_read_stage(folder / name, stages.get(name) or {}) for name in names))


def _read_stage(folder: Path, summary: Mapping[str, Any]) -> Stage:
    return Stage(
        name=folder.name,
        summary=summary,
        manifest=_read_object(folder / "manifest.json"),
        metrics=tuple(_read_lines(folder / "metrics.jsonl")),
        evaluation=_read_object(folder / "evaluation.json"),
        completions=tuple(_read_lines(folder / "completions.jsonl")),
    )


def _read_object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SawyerError(f"{path} cannot be read as JSON ({error}), run the stage again to mend it") from error
    if not isinstance(value, dict):
        raise SawyerError(f"{path} holds no JSON object, run the stage again to mend it")
    return value


def _read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row
