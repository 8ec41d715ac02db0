"""Before a run: is everything there that its stages need, and what does each stage's result depend on?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError
from sawyer.models.locate import is_reward_model, origin
from sawyer.pipeline.asked import bad_attributes
from sawyer.pipeline.complaints import refuse
from sawyer.pipeline.context import derived_seed
from sawyer.pipeline.files import digest, files_in, path_sha256, read_json
from sawyer.pipeline.parts import bad_parts, other_classifiers
from sawyer.pipeline.recipe import PlannedStage, Recipe
from sawyer.pipeline.stage import InputFile, Presentation, Ref, marked
from sawyer.pipeline.yaml_source import dotted

LEAST_FREE_GB = 1.0
SMOLLM2_WEIGHTS = 134_515_008  # of the embedded model, which may not be here yet


@dataclass(frozen=True)
class Plan:
    """What each stage's result depends on, before any of them runs."""

    fingerprints: dict[str, str]
    """By stage: a hash of all that its result depends on. The same fingerprint, the same result."""
    models: dict[str, dict[str, str | None]]
    """By name (`base`, ...): what it is, its content hash if it is a folder or file, and else where it comes from."""
    files: dict[str, dict[str, dict[str, str | None]]]
    """By stage: the files and folders that its settings name, `settings.` and their place -> `file` and `sha256`."""


def plan(recipe: Recipe, *, fetch: bool = False) -> Plan:
    """Check that models and input files are there, and work out the fingerprints.

    A model that is not on this machine has no identity yet. With `fetch` it is downloaded, as every run does before
    its first stage; without, the fingerprints of what depends on it are not those of a run.

    Raises:
        SawyerError: a model folder, an input file or a part of the data is missing, empty, or not what it should be
            (up to five); a model cannot be fetched.
    """
    used = {name for planned in recipe.stages for name in planned.inputs}
    complaints = [text for name in recipe.models if name in used for text in _bad_model(recipe, name)]
    complaints += [text for planned in recipe.stages for text in _bad_input_files(recipe, planned)]
    complaints += [text for planned in recipe.stages for text in bad_parts(recipe, planned)]
    complaints += [text for planned in recipe.stages for text in other_classifiers(recipe, planned)]
    complaints += [text for planned in recipe.stages for text in bad_attributes(recipe, planned)]
    complaints += [text for planned in recipe.stages for text in _no_reward_models(recipe, planned)]
    refuse(complaints)
    models = {name: _identity(recipe, name, fetch) for name in recipe.models if name in used}
    files = {planned.name: _input_files(planned) for planned in recipe.stages}
    fingerprints: dict[str, str] = {}
    for planned in recipe.stages:
        inputs = {
            name: fingerprints[name] if name in fingerprints else _content(models[name]) for name in planned.inputs
        }
        fingerprints[planned.name] = _fingerprint(recipe, planned, inputs)
    return Plan(fingerprints, models, files)


def check_room(recipe: Recipe, out: Path, unfinished: list[str]) -> None:
    """Is there disk and memory enough for the stages that are still to run?

    Raises:
        SawyerError: the disk of `out` has less than 1 GB free, or less than the stages say they need; or the memory
            is smaller than a stage says it needs.
    """
    import shutil

    import psutil

    disk_gb, scratch_gb, memory_gb, hungriest = 0.0, 0.0, 0.0, ""
    weights = _weights_of(recipe.models.get("base", ""))
    for planned in recipe.stages:
        if planned.name in unfinished and planned.stage.needs is not None:
            needs = planned.stage.needs(planned.settings, weights)
            disk_gb += needs.get("disk_gb", 0.0)
            scratch_gb = max(scratch_gb, needs.get("scratch_gb", 0.0))
            if needs.get("memory_gb", 0.0) > memory_gb:
                memory_gb, hungriest = needs["memory_gb"], planned.name
    if not unfinished:
        return
    disk_gb = max(disk_gb + scratch_gb, LEAST_FREE_GB)
    free_gb = shutil.disk_usage(out).free / 1e9
    if free_gb < disk_gb:
        raise SawyerError(
            f"{out}: the run needs about {disk_gb:.1f} GB of disk and {free_gb:.1f} GB are free; free some space, "
            "or give another place with --out"
        )
    total_gb = psutil.virtual_memory().total / 1e9
    if memory_gb > total_gb:
        raise SawyerError(
            f"{recipe.where('stages', hungriest)}: stages.{hungriest} needs about {memory_gb:.1f} GB of memory and "
            f"this machine has {total_gb:.1f} GB; choose a smaller model or smaller batches"
        )


def _weights_of(model: str) -> int:
    """How many weights a model has, from the size of its files; 0 where they are not on this machine."""
    folder = _path(model)
    config = folder / "config.json"
    if not config.is_file():
        return SMOLLM2_WEIGHTS if model.lower().startswith("smollm2") else 0
    dtype = read_json(config).get("dtype", "float32")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return size // (4 if dtype == "float32" else 2)


def _bad_model(recipe: Recipe, name: str) -> list[str]:
    model = recipe.models[name]
    where = _where(recipe, name)
    path = _path(model)
    if path.is_dir():
        if not any((path / config).is_file() for config in ("config.json", "adapter_config.json")):
            return [f"{where}: {model} is not a model folder, it has no config.json; give a folder that has one"]
    elif path.is_file():
        if path.stat().st_size == 0:
            return [f"{where}: the model file {model} is empty; fetch it again"]
    elif _is_path(model):
        return [f"{where}: there is no model at {model}; mend the path, or give the model's name on the hub"]
    return []


def _no_reward_models(recipe: Recipe, planned: PlannedStage) -> list[str]:
    """What is named as reward model and is none; only of folders can that be told before the run."""
    complaints = []
    for given in marked(planned.settings, Ref):
        model = recipe.models.get(given.value)
        if model is None or given.marker.kinds != {"reward_model"}:
            continue
        path = _path(model)
        if path.is_dir() and not _bad_model(recipe, given.value) and not is_reward_model(path):
            where, who = recipe.where("stages", planned.name, *given.location), given.location[0]
            complaints.append(
                f"{where}: stages.{planned.name}.{who} needs a reward model and {model} is a language model, whose "
                "scores would be those of a random head; train one from it with a stage `reward`, or name another"
            )
    return complaints


def _where(recipe: Recipe, model: str) -> str:
    return recipe.where("model") if model == "base" else recipe.where("models", model)


def _path(model: str) -> Path:
    return Path(os.path.expanduser(model))


def _is_path(model: str) -> bool:
    """Whether a model's name can only be a path: hub names are `name` or `owner/name`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith((".gguf", ".safetensors", "/"))


def _bad_input_files(recipe: Recipe, planned: PlannedStage) -> list[str]:
    complaints = []
    for given in marked(planned.settings, InputFile):
        where, path = recipe.where("stages", planned.name, *given.location), Path(given.value)
        if not path.exists():
            complaints.append(f"{where}: there is no file {path}; mend the path, or fetch the file")
        elif path.is_dir():
            if not given.marker.folder:
                complaints.append(f"{where}: {path} is a folder; give the file, or a list of the files, in it")
            elif not any(file.stat().st_size for file in files_in(path)):
                complaints.append(f"{where}: the folder {path} has nothing in it; give one with data")
        elif path.stat().st_size == 0:
            complaints.append(f"{where}: the file {path} is empty; give one with data")
    return complaints


def _input_files(planned: PlannedStage) -> dict[str, dict[str, str | None]]:
    return {
        dotted(("settings", *given.location)): {"file": given.value, "sha256": path_sha256(Path(given.value))}
        for given in marked(planned.settings, InputFile)
    }


def _identity(recipe: Recipe, name: str, fetch: bool) -> dict[str, str | None]:
    try:
        return _model_identity(recipe.models[name], fetch)
    except SawyerError as error:
        raise SawyerError(f"{_where(recipe, name)}: {error}") from None


def _model_identity(model: str, fetch: bool) -> dict[str, str | None]:
    """A local model is its content, wherever it lies; any other is its name and where its weights come from.

    An adapter is its own content and what its base is.
    """
    path = _path(model)
    if not path.exists():
        return {"sha256": None, **origin(model, fetch=fetch), "model": model}
    sha256, adapter = path_sha256(path), read_json(path / "adapter_config.json")
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
    if not base:
        return {"model": model, "sha256": sha256}
    return {"model": model, "sha256": digest([sha256, _content(_model_identity(base, fetch))]), "base": base}


def _content(identity: dict[str, str | None]) -> Any:
    """What of a model's identity decides the results: where its content is known, not its name."""
    return identity["sha256"] or identity


def _fingerprint(recipe: Recipe, planned: PlannedStage, inputs: dict[str, Any]) -> str:
    settings = planned.settings.model_dump(mode="json")
    for shown in marked(planned.settings, Presentation):
        _replace(settings, shown.location, None)
    for given in marked(planned.settings, InputFile):
        path = Path(given.value)
        _replace(settings, given.location, [path.name, path_sha256(path)])
    return digest(
        {
            "stage": planned.stage.kind,
            "version": planned.stage.version,
            "settings": settings,
            "seed": derived_seed(recipe.seed, planned.name),
            "precision": recipe.precision,
            "inputs": inputs,
        }
    )


def _replace(settings: Any, location: tuple[str | int, ...], value: Any) -> None:
    for part in location[:-1]:
        settings = settings[part]
    settings[location[-1]] = value
