"""What a model came from, as far as manifests tell: the stages it builds on, their data, and what it was rewarded by.

An artifact's manifest names its inputs by the stages' names and the hashes of their content. A stage of the same run
lies beside it; one that is gone, or has other content by now, is not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.data.contamination import EvaluationPrompt, evaluation_prompts
from sawyer.errors import SawyerError
from sawyer.pipeline.artifact import finished_artifact
from sawyer.pipeline.context import METRICS, Artifact
from sawyer.pipeline.files import path_sha256
from sawyer.pipeline.stage import MODEL_KINDS

DEEP = 4
"""A model may lie so many folders inside its artifact (`iterate/iterates/2`, `d2po/discriminator`)."""


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from.

    Attributes:
        artifact: the artifact it is, or is part of.
        ancestors: that artifact and all it builds on that are still there, each once.
        missing: names of inputs that are not there any more.
    """

    artifact: Artifact
    ancestors: tuple[Artifact, ...]
    missing: tuple[str, ...]

    @property
    def seed(self) -> int | None:
        """The seed of the recipe that made it."""
        return self.artifact.manifest.get("recipe_seed")

    @property
    def rewards(self) -> frozenset[str]:
        """What its training was rewarded by: content hashes and names of reward models, names of computed rewards."""
        return frozenset(one for artifact in self.ancestors for one in _rewards(artifact.manifest))

    def data_files(self) -> list[Path]:
        """The files of records that it, or a model it builds on, was trained or selected on."""
        here = {artifact.folder: artifact for artifact in self.ancestors}
        files: dict[Path, None] = {}
        for artifact in self.ancestors:
            if artifact.kind not in MODEL_KINDS:
                continue
            for name in artifact.manifest["inputs"]:
                data = here.get(artifact.folder.parent / name)
                if data is not None and data.kind not in MODEL_KINDS:
                    files |= dict.fromkeys(_parts(data, name, artifact.manifest["settings"]))
        return list(files)

    def training_prompts(self) -> Iterator[EvaluationPrompt]:
        """What was asked in the records of `data_files`."""
        for file in self.data_files():
            try:
                prompts = evaluation_prompts(file)
            except SawyerError:  # rows without a prompt, such as a ledger
                continue
            for prompt in prompts:
                yield EvaluationPrompt(f"{file.parent.name}/{prompt.where}", prompt.text)


def lineage_of(place: str | Path) -> Lineage | None:
    """Where the model in a folder comes from; None for a model that no run made, such as one of the hub."""
    artifact = _artifact_around(Path(place))
    if artifact is None:
        return None
    found: dict[Path, Artifact] = {}
    missing: dict[str, None] = {}
    waiting = [artifact]
    while waiting:
        one = waiting.pop()
        if one.folder in found:
            continue
        found[one.folder] = one
        for name, entry in one.manifest.get("inputs", {}).items():
            beside = finished_artifact(one.folder.parent / name)
            if beside is not None and entry.get("sha256") == beside.sha256:
                waiting.append(beside)
            elif "fingerprint" in entry:
                missing[name] = None
    return Lineage(artifact, tuple(found.values()), tuple(missing))


def rewarded_by(lineage: Lineage | None, reward: str | Path) -> bool:
    """Whether a model was trained on this reward: the place or name of a reward model, or a computed reward's name."""
    if lineage is None:
        return False
    known, place = lineage.rewards, Path(reward)
    if str(reward) in known:
        return True
    if not place.exists():
        return False
    if place.resolve().is_relative_to(lineage.artifact.folder.resolve()):  # a discriminator that learned beside it
        return True
    artifact = finished_artifact(place)
    return path_sha256(place) in known or (artifact is not None and artifact.sha256 in known)


def _artifact_around(place: Path) -> Artifact | None:
    if not place.exists():  # the name of a model on the hub
        return None
    for folder in [place, *place.absolute().parents][: 1 + DEEP]:
        artifact = finished_artifact(folder) if folder.is_dir() else None
        if artifact is not None:
            return artifact
    return None


def _rewards(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a stage that trains a policy rewards: what it calls `reward` or `rewards`, else `gold` in any form. With a
    reward, gold is only watched."""
    settings, inputs = manifest.get("settings", {}), manifest.get("inputs", {})
    if manifest.get("makes") != "policy":
        return
    several = settings.get("rewards") or []
    yield from (one["gold"] for one in several if one.get("gold"))
    named = [name for name in (settings.get("reward"), *(one.get("model") for one in several)) if name]
    if not named and not several:
        named = [settings["gold_model"]] if settings.get("gold_model") else []
        if settings.get("gold"):
            yield settings["gold"]
    for name in named:
        entry = inputs.get(name, {})
        yield from (entry[key] for key in ("sha256", "model") if entry.get(key))


def _parts(data: Artifact, name: str, settings: Mapping[str, Any]) -> list[Path]:
    """The files of a data set that a training read: its part and that of its validation, where settings name them."""
    files = {file.stem: file for file in sorted(data.folder.glob("*.jsonl")) if file.name != METRICS}
    if settings.get("data") != name:
        return list(files.values())
    named = [files[part] for key in ("part", "validation") if (part := settings.get(key)) in files]
    return named or list(files.values())
