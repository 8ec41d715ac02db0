"""What `sawyer compare` compares: from what was typed to models, local or remote, one for each seed where a run has
several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sawyer.apps.request import content_of
from sawyer.errors import SawyerError
from sawyer.models.locate import is_reward_model, resolve
from sawyer.pipeline.artifact import finished_artifact
from sawyer.pipeline.lineage import Lineage, lineage_of
from sawyer.pipeline.seeds import find_seeds, place, read_seeds
from sawyer.pipeline.summary import SUMMARY, read_summary

REMOTE = "@http"


@dataclass(frozen=True)
class Compared:
    """One model of a comparison.

    Attributes:
        name: what it is called; no other model of the comparison is called so.
        given: what was typed.
        places: what loads it: one, or one for each of `seeds`.
        seeds: the seeds of the trainings, where there are several.
        endpoint: of a remote model, whose place is what the endpoint calls it.
        copy: how many models before it are the same: their answers are drawn apart.
    """

    name: str
    given: str
    places: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    endpoint: str | None = None
    copy: int = 0

    @property
    def is_remote(self) -> bool:
        return self.endpoint is not None

    def place(self, seed: int) -> str:
        """What loads it for one of the comparison's seeds."""
        return self.places[self.seeds.index(seed)] if self.seeds else self.places[0]

    def content(self, seed: int) -> str:
        """What its answers depend on."""
        where = self.place(seed)
        return f"{where} at {self.endpoint}" if self.is_remote else content_of(where)

    def lineages(self) -> list[Lineage]:
        """Where it comes from, of each training."""
        if self.is_remote:
            return []
        return [lineage for one in self.places if (lineage := lineage_of(one)) is not None]


def find_models(given: Sequence[str]) -> list[Compared]:
    """The models that were named: a folder, a name as recipes have it, a run or a stage of it, several seeds or a stage
    of them, or NAME@URL for a model behind an endpoint. No weights are read.

    Raises:
        SawyerError: fewer than two; one does not exist, is no policy, or has trainings of other seeds than another.
    """
    if len(given) < 2:
        raise SawyerError("give at least two models to compare")
    found = [_find(one) for one in given]
    several = [model for model in found if model.seeds]
    other = next((model for model in several if model.seeds != several[0].seeds), None)
    if other is not None:
        raise SawyerError(
            f"{several[0].given} was trained with the seeds {_listed(several[0].seeds)} and {other.given} with "
            f"{_listed(other.seeds)}; compare trainings of the same seeds, or name one of each (seed-0)"
        )
    return _named(found)


def find_model(given: str) -> Compared:
    """One model by itself, as `find_models` finds it.

    Raises:
        SawyerError: it does not exist, is no policy, or stands for several trainings.
    """
    found = _find(given)
    if len(found.places) > 1:
        raise SawyerError(f"{given} is several trainings, of the seeds {_listed(found.seeds)}; name one (seed-0)")
    return found


def _find(given: str) -> Compared:
    if REMOTE in given:
        name, _, address = given.partition("@")
        if not name:
            raise SawyerError(f"{given} names no model; write NAME@URL")
        return Compared(name, given, (name,), endpoint=address)
    path = Path(given).expanduser()
    if (seeds := _of_seeds(path)) is not None:
        return seeds
    if (path / SUMMARY).is_file():
        stage = last_policy(path)
        return Compared(f"{path.name}/{stage}", given, (str(path / stage),))
    artifact = finished_artifact(path) if path.is_dir() else None
    if artifact is not None and artifact.kind != "policy":
        raise SawyerError(f"{given} is what a stage `{artifact.manifest['stage']}` made and no model that answers")
    where = resolve(given)
    if Path(where).is_dir() and is_reward_model(Path(where)):
        raise SawyerError(f"{given} is a reward model, which answers nothing; give it as --feedback")
    return Compared(path.name or given, given, (where,))


def _of_seeds(path: Path) -> Compared | None:
    """The same stage of each seed: the one that is named below the folder of the seeds, or the last policy."""
    for folder, stage in ((find_seeds(path), None), (find_seeds(path.parent), path.name)):
        if folder is None:
            continue
        seeds = tuple(read_seeds(folder)["seeds"])
        runs = [place(folder, seed) for seed in seeds]
        if stage is not None and not all((run / stage).is_dir() for run in runs):
            continue
        stage = stage or last_policy(runs[0])
        places = tuple(resolve(str(run / stage)) for run in runs)
        return Compared(f"{folder.name}/{stage}", str(path), places, seeds)
    return None


def last_policy(run: Path) -> str:
    """The last finished stage of a run that made a policy.

    Raises:
        SawyerError: there is none.
    """
    stages = read_summary(run)["stages"]
    made = [name for name, stage in stages.items() if stage.get("makes") == "policy" and stage["state"] == "finished"]
    if not made:
        raise SawyerError(f"no stage of the run {run} has made a policy yet; name a model folder, or finish the run")
    return made[-1]


def _named(models: Sequence[Compared]) -> list[Compared]:
    """The models with names that tell them apart: the folder's, else with the folder above, else a number."""
    named: list[Compared] = []
    for model in models:
        name = model.name
        alike = any(other.name == name and other.places != model.places for other in models)
        if alike and not model.is_remote and "/" in model.given:
            name = "/".join(Path(model.given).parts[-2:])
        copies = sum(other.places == model.places and other.endpoint == model.endpoint for other in named)
        number, taken = 1, {other.name for other in named}
        unique = name
        while unique in taken:
            number += 1
            unique = f"{name} ({number})"
        named.append(Compared(unique, model.given, model.places, model.seeds, model.endpoint, copies))
    return named


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
