"""Running a recipe: each stage once, continued where a kill left it, and nothing half-written taken for finished.

    runs/NAME/recipe.yaml        the recipe with every setting written out
    runs/NAME/summary.json       state and headline numbers
    runs/NAME/STAGE/             one artifact for each finished stage
    runs/NAME/.work/STAGE/       a stage at work: folder/ (its artifact to be), scratch/ (checkpoints), state.json

A stage is finished by one rename of its work folder to its place. Its fingerprint says what its result depends on:
with the same one (and inputs of the same content) a finished stage is skipped and a killed one continues; with
another one it starts anew, and the old artifact stays until the new one takes its place.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from sawyer.atomic import write_atomically
from sawyer.errors import SawyerError
from sawyer.numerics import release, settled
from sawyer.pipeline.artifact import finished_artifact, load_artifact, write_manifest
from sawyer.pipeline.context import METRICS, Artifact, Context, derived_seed
from sawyer.pipeline.disk import disk_errors
from sawyer.pipeline.files import digest, plain, read_json, write_json
from sawyer.pipeline.plan import Plan, check_room, plan
from sawyer.pipeline.processes import Processes
from sawyer.pipeline.progress import Voice, duration
from sawyer.pipeline.provenance import blotted, command
from sawyer.pipeline.recipe import PlannedStage, Recipe
from sawyer.pipeline.summary import WORK, Summary, now, take_lock
from sawyer.pipeline.yaml_source import parse

RECIPE = "recipe.yaml"
CACHE = ".cache"
HEADER = "# Written by `sawyer run`: the recipe of this run, with every setting. To repeat it, run this file."


def write_report(run: Path) -> Path | None:
    """The run's report, or None where this build of Sawyer has no report."""
    if importlib.util.find_spec("sawyer.pipeline.report.build") is None:
        return None
    return importlib.import_module("sawyer.pipeline.report.build").write_report(run)


def run_recipe(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    voice: Voice | None = None,
    report: Callable[[Path], Path | None] = write_report,
) -> Path:
    """Run what is not done yet of a recipe, and return the run's folder (`runs/NAME` unless `out` says otherwise).

    In a run of several processes, call it in each of them.

    Raises:
        SawyerError: something the user can mend: bad input, a full disk, a folder that is in use. What is finished
            stays, and the same call continues.
    """
    processes = Processes()
    voice = voice or Voice()
    voice.quiet = voice.quiet or not processes.is_main
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    run = _Run(recipe, folder, processes, voice)
    with disk_errors(folder), settled() as settle:
        try:
            run.plan = processes.on_main(run.open)
            for planned in recipe.stages:
                if processes.count == 1:  # what connects several is collected as ever
                    settle()
                run.bring_to_finish(planned)
        except BaseException as error:
            run.failed(error, report)
            raise
        else:
            processes.on_main(lambda: run.finished(report))
        finally:
            run.close()
    return folder


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    processes: Processes
    voice: Voice
    plan: Plan = field(default_factory=lambda: Plan({}, {}, {}))
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    summary: Summary | None = None
    lock: TextIO | None = None

    def open(self) -> Plan:
        """Take the folder, check everything that can be checked before computing, and write the recipe."""
        refuse_foreign_folder(self.folder, self.recipe.name)
        planned = plan(self.recipe, fetch=True)
        (self.folder / WORK).mkdir(parents=True, exist_ok=True)
        self.lock = take_lock(self.folder)
        fingerprints = planned.fingerprints
        unfinished = [name for name in fingerprints if not self._is_done(name, fingerprints[name], None)]
        check_room(self.recipe, self.folder, unfinished)
        write_atomically(self.folder / RECIPE, f"{HEADER}\n{self.recipe.to_yaml()}")
        entries = {
            stage.name: {"kind": stage.stage.kind, "makes": stage.stage.makes, "fingerprint": fingerprints[stage.name]}
            for stage in self.recipe.stages
        }
        self.summary = Summary(self.folder, self.recipe.name, self.recipe.title, self.recipe.seed, command(), entries)
        for name in entries:
            if name not in unfinished:
                self._note_finished(load_artifact(self.folder / name), write=False)
        self.summary.write("running")
        return planned

    def bring_to_finish(self, planned: PlannedStage) -> None:
        """Skip, continue or run one stage, and take up its artifact."""
        work = self.folder / WORK / planned.name
        inputs = self._inputs(planned)
        if self.processes.on_main(lambda: self._begin(planned, work, inputs)):
            context = self._context(planned, work)
            if self.processes.is_main:
                self._run_and_finish(planned, context, work, inputs)
            else:
                planned.stage.run(planned.settings, context)
            context.close()
            self.processes.wait()
            release()
        self.artifacts[planned.name] = load_artifact(self.folder / planned.name)

    def failed(self, error: BaseException, report: Callable[[Path], Path | None]) -> None:
        """Write down how far the run came, and report on what is finished; never hides the error."""
        if self.summary is None:
            if self.lock is not None and not (self.folder / RECIPE).exists():  # refused before it began: leave no trace
                shutil.rmtree(self.folder / WORK, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
            return
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        try:
            for name, entry in self.summary.value["stages"].items():
                if entry["state"] == "running":
                    self.summary.stage(name, state)
            self.summary.write(state, error=f"{type(error).__name__}: {error}")
            if self.artifacts and isinstance(error, Exception):
                report(self.folder)
        except Exception as second:
            self.voice.say(f"the report of what is finished could not be written: {second}")

    def finished(self, report: Callable[[Path], Path | None]) -> None:
        assert self.summary is not None
        self.summary.write("finished")
        path = report(self.folder)
        if path is not None:
            self.voice.say(f"report: {path}")

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()

    def _inputs(self, planned: PlannedStage) -> dict[str, dict[str, str | None]]:
        """What the manifest says of each input: fingerprint and content hash, or a model's name and what it is.

        Files that the settings name stand under `settings.` and the place of their path.
        """
        earlier = self.artifacts
        inputs = {
            name: {"fingerprint": earlier[name].manifest["fingerprint"], "sha256": earlier[name].sha256}
            if name in earlier
            else self.plan.models[name]
            for name in planned.inputs
        }
        return {**inputs, **self.plan.files[planned.name]}

    def _is_done(self, name: str, fingerprint: str, inputs: dict | None) -> bool:
        """Whether the finished artifact is the one wanted; `inputs` None looks at the fingerprint alone."""
        artifact = finished_artifact(self.folder / name)
        if artifact is None or artifact.manifest["fingerprint"] != fingerprint:
            return False
        return inputs is None or _same_content(artifact.manifest["inputs"], inputs)

    def _begin(self, planned: PlannedStage, work: Path, inputs: dict[str, Any]) -> bool:
        """Make the work folder ready. False where nothing is left to do."""
        assert self.summary is not None
        name, fingerprint = planned.name, self.plan.fingerprints[planned.name]
        if self._is_done(name, fingerprint, inputs):
            shutil.rmtree(work, ignore_errors=True)
            self._note_finished(load_artifact(self.folder / name))
            self._say(planned, "done already")
            return False
        state = read_json(work / "state.json") or {}
        ours = state.get("fingerprint") == fingerprint and _same_content(state["inputs"], inputs)
        finished = finished_artifact(work / "folder")
        if ours and finished is not None and finished.manifest["fingerprint"] == fingerprint:
            self._put_in_place(planned, work)  # the kill came between the manifest and the rename
            self._say(planned, "done already")
            return False
        if not ours:
            shutil.rmtree(work, ignore_errors=True)
            state = {"fingerprint": fingerprint, "inputs": inputs, "started": now(), "sessions": 0}
            state |= {"wall_seconds": 0.0, "cpu_seconds": 0.0}
        (work / "scratch").mkdir(parents=True, exist_ok=True)
        (work / "folder").mkdir(exist_ok=True)
        continues = any((work / "scratch").iterdir())
        for path in (work / "folder").iterdir():
            if path.name != METRICS or not continues:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        state["sessions"] += 1
        write_json(work / "state.json", state)
        again = (self.folder / name).exists()
        self._say(planned, "continuing" if continues else "running again" if again else "running")
        self.summary.stage(name, "running")
        return True

    def _context(self, planned: PlannedStage, work: Path) -> Context:
        return Context(
            name=planned.name,
            folder=work / "folder",
            scratch=work / "scratch",
            cache=self.folder / CACHE,
            identities={name: digest(entry["sha256"] or entry) for name, entry in self._inputs(planned).items()},
            tracker_folder=self.folder / "trackers",
            seed=derived_seed(self.recipe.seed, planned.name),
            precision=self.recipe.precision,
            artifacts={name: self.artifacts[name] for name in planned.inputs if name in self.artifacts},
            models={name: self.recipe.models[name] for name in planned.inputs if name in self.recipe.models},
            processes=self.processes,
            voice=self.voice,
        )

    def _run_and_finish(self, planned: PlannedStage, context: Context, work: Path, inputs: dict[str, Any]) -> None:
        """The main process's part: run the stage, keep the time, write the manifest, put the artifact in place."""
        assert self.summary is not None
        state, clock = read_json(work / "state.json"), _Clock()

        def spent() -> dict[str, float]:
            wall, cpu = clock.seconds()
            before = state["wall_seconds"], state["cpu_seconds"]
            return {"wall_seconds": round(before[0] + wall, 3), "cpu_seconds": round(before[1] + cpu, 3)}

        context.on_activity = lambda: write_json(work / "state.json", {**state, **spent()})
        try:
            figures = planned.stage.run(planned.settings, context)
        except BaseException as error:
            self.summary.value["stages"][planned.name] |= spent()
            with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
                write_json(work / "state.json", {**state, **spent()})
            if isinstance(error, SawyerError):
                raise SawyerError(f"stage '{planned.name}': {error}") from error
            error.add_note(f"(while running the stage '{planned.name}')")
            raise
        facts = {
            "stage": planned.stage.kind,
            "name": planned.name,
            "makes": planned.stage.makes,
            "settings": blotted(planned.settings.model_dump(mode="json")),
            "recipe_seed": self.recipe.seed,
            "seed": context.seed,
            "precision": context.precision,
            "fingerprint": self.plan.fingerprints[planned.name],
            "inputs": inputs,
            "figures": plain(figures or {}),
            "started": state["started"],
            "finished": now(),
            "sessions": state["sessions"],
        }
        write_manifest(context.folder, {**facts, **spent()})
        self._put_in_place(planned, work)
        self._say(planned, f"finished in {duration(spent()['wall_seconds'])}")

    def _say(self, planned: PlannedStage, what: str) -> None:
        number = self.recipe.stages.index(planned) + 1
        self.voice.say(f"[{number}/{len(self.recipe.stages)}] {planned.name}: {what}")

    def _put_in_place(self, planned: PlannedStage, work: Path) -> None:
        """One rename makes the stage finished; an artifact it replaces is moved aside just before."""
        place, aside = self.folder / planned.name, work / "replaced"
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(place, aside)
        os.rename(work / "folder", place)
        shutil.rmtree(work, ignore_errors=True)
        self._note_finished(load_artifact(place))

    def _note_finished(self, artifact: Artifact, write: bool = True) -> None:
        assert self.summary is not None
        facts = {key: artifact.manifest[key] for key in ("wall_seconds", "cpu_seconds", "figures")}
        self.summary.value["stages"][artifact.name] |= {"state": "finished", **facts}
        if write:
            self.summary.write("running")


def refuse_foreign_folder(folder: Path, recipe: str) -> None:
    """Nothing that is not a run of this recipe may be written over.

    Raises:
        SawyerError: the folder is a file, holds other things, or is a run of another recipe.
    """
    if folder.exists() and not folder.is_dir():
        raise SawyerError(f"{folder} is a file; give a folder with --out")
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return
    mine = folder / RECIPE
    text = mine.read_text(encoding="utf-8") if mine.is_file() else ""
    if not text.startswith(HEADER.split(":")[0]):
        raise SawyerError(f"{folder} has other files in it and is not a run; give a new folder with --out")
    name = parse(text, str(mine)).value["name"]
    if name != recipe:
        raise SawyerError(
            f"{folder} is a run of the recipe '{name}', not of '{recipe}'; give another folder with --out"
        )


def _same_content(before: dict[str, Any], inputs: dict[str, Any]) -> bool:
    """Whether two notes of a stage's inputs mean the same content, wherever it lies."""
    return {name: entry["sha256"] for name, entry in before.items()} == {
        name: entry["sha256"] for name, entry in inputs.items()
    }


class _Clock:
    """Wall and CPU seconds (this process and its ended children) since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), self._cpu_seconds()

    def seconds(self) -> tuple[float, float]:
        return time.monotonic() - self._wall, self._cpu_seconds() - self._cpu

    @staticmethod
    def _cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)
