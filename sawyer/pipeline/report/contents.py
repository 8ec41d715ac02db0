"""What a run folder holds, read for the report: the summary's stages, and the files of those that have finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError
from sawyer.pipeline.summary import SUMMARY


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        summary: its entry in `summary.json`: kind, state, wall seconds, figures.
        manifest: `manifest.json`: settings, versions, hardware.
        metrics: the rows of `metrics.jsonl`.
        evaluation: `evaluation.json`, of policies or of a reward model.
        completions: the rows of `completions.jsonl`.
        samples: the rows of `samples.jsonl`, answers kept while a policy was trained.
        red_team, attacks: `redteam.json`, and the rows of `transcripts/attacks.jsonl`.
        critique, chains: `critique.json`, and the rows of `transcripts/steps.jsonl`.

    All but the summary are empty until it has finished: what lies in its folder before that was made by other settings.
    """

    name: str
    summary: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    completions: tuple[Mapping[str, Any], ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()
    red_team: Mapping[str, Any] = field(default_factory=dict)
    attacks: tuple[Mapping[str, Any], ...] = ()
    critique: Mapping[str, Any] = field(default_factory=dict)
    chains: tuple[Mapping[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        return self.summary["kind"]

    @property
    def state(self) -> str:
        return self.summary["state"]

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def wall_seconds(self) -> float | None:
        return self.summary.get("wall_seconds")

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures that a line has room for: single values, and counts by name."""
        figures = self.summary.get("figures", {}) if self.finished else {}
        return {name: value for name, value in figures.items() if value != {} and _is_short(value)}

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
        return self.summary["recipe"]

    @property
    def title(self) -> str:
        return self.summary["title"] or self.name

    @property
    def command(self) -> str:
        return self.summary["command"]

    @property
    def seed(self) -> int | None:
        """The recipe's. None in a summary of before it was noted."""
        return self.summary.get("seed")


def read_run(folder: Path) -> Run:
    """Read a run: the stages that its summary names, each with its files if it has finished.

    Other folders are left alone: they are stages that the recipe no longer has. A missing file leaves its part empty; a
    last line cut short by a kill is skipped.

    Raises:
        SawyerError: the folder is not there or is no run, or one of its JSON files is broken.
    """
    if not folder.is_dir():
        raise SawyerError(f"there is no run folder {folder}, give the folder that `sawyer run` wrote")
    if not (folder / SUMMARY).is_file():
        raise SawyerError(f"{folder} has no {SUMMARY}, so it is no run; give the folder that `sawyer run` wrote")
    summary = _read_object(folder / SUMMARY)
    return Run(folder, summary, tuple(_read_stage(folder / name, entry) for name, entry in summary["stages"].items()))


def _read_stage(folder: Path, summary: Mapping[str, Any]) -> Stage:
    stage = Stage(folder.name, summary)
    if not stage.finished:
        return stage
    return Stage(
        name=folder.name,
        summary=summary,
        manifest=_read_object(folder / "manifest.json"),
        metrics=tuple(_read_lines(folder / "metrics.jsonl")),
        evaluation=_read_object(folder / "evaluation.json"),
        completions=tuple(_read_lines(folder / "completions.jsonl")),
        samples=tuple(_read_lines(folder / "samples.jsonl")),
        red_team=_read_object(folder / "redteam.json"),
        attacks=tuple(_read_lines(folder / "transcripts" / "attacks.jsonl")),
        critique=_read_object(folder / "critique.json"),
        chains=tuple(_read_lines(folder / "transcripts" / "steps.jsonl")),
    )


def _is_short(figure: Any) -> bool:
    inner = figure.values() if isinstance(figure, Mapping) else [figure]
    return not any(isinstance(value, Mapping | list) for value in inner)


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
