"""Before a run: is everything there that its stages need, and what does each stage's result depend on?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.errors import SawyerError
from sawyer.pipeline.complaints import refuse
from sawyer.pipeline.context import derived_seed
from sawyer.pipeline.files import digest, files_in, path_sha256, read_json
from sawyer.pipeline.recipe import PlannedStage, Recipe
from sawyer.pipeline.stage import InputFile, Presentation, marked

LEAST_FREE_GB = 1.0
SMOLLM2_WEIGHTS = 134_515_008  # of the embedded model, which may not be here yet


@dataclass(frozen=True)
class Plan:
    """What each stage's result depends on, before any of them runs."""

    fingerprints: dict[str, str]
    """By stage: a hash of all that its result depends on. The same fingerprint, the same result."""
    models: dict[str, dict[str, str | None]]
    """By name (`base`, ...): what it is, and its content hash if it is a folder or file."""


def plan(recipe: Recipe) -> Plan:
    """Check that models and input files are there, and work out the fingerprints.

    Raises:
        SawyerError: a model folder or an input file is missing, empty, or not what it should be (up to five).
    """
    used = {name for planned in recipe.stages for name in planned.inputs}
    complaints = [text for name in recipe.models if name in used for text in _bad_model(recipe, name)]
    complaints += [text for planned in recipe.stages for text in _bad_input_files(recipe, planned)]
    refuse(complaints)
    models = {name: _model_identity(recipe.models[name]) for name in recipe.models if name in used}
    fingerprints: dict[str, str] = {}
    for planned in recipe.stages:
        inputs = {name: fingerprints[name] if name in fingerprints else models[name] for name in planned.inputs}
        fingerprints[planned.name] = _fingerprint(recipe, planned, inputs)
    return Plan(fingerprints, models)


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
    folder = Path(model).expanduser()
    config = folder / "config.json"
    if not config.is_file():
        return SMOLLM2_WEIGHTS if model.lower().startswith("smollm2") else 0
    dtype = read_json(config).get("dtype", "float32")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return size // (4 if dtype == "float32" else 2)


def _bad_model(recipe: Recipe, name: str) -> list[str]:
    model = recipe.models[name]
    where = recipe.where("model") if name == "base" else recipe.where("models", name)
    path = Path(model).expanduser()
    if path.is_dir():
        if not any((path / config).is_file() for config in ("config.json", "adapter_config.json")):
            return [f"{where}: {model} is not a model folder, it has no config.json; give a folder that has one"]
    elif path.is_file():
        if path.stat().st_size == 0:
            return [f"{where}: the model file {model} is empty; fetch it again"]
    elif _is_path(model):
        return [f"{where}: there is no model at {model}; mend the path, or give the model's name on the hub"]
    return []


def _is_path(model: str) -> bool:
    """Whether a model's name can only be a path: hub names are `name` or `owner/name`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith((".gguf", ".safetensors", "/"))


def _bad_input_files(recipe: Recipe, planned: PlannedStage) -> list[str]:
    complaints = []
    for given in marked(planned.settings, InputFile):
        where, path = recipe.where("stages", planned.name, *given.location), Path(given.value).expanduser()
        if not path.exists():
            complaints.append(f"{where}: there is no file {path}; mend the path, or fetch the file")
        elif path.is_dir():
            if not any(file.stat().st_size for file in files_in(path)):
                complaints.append(f"{where}: the folder {path} has nothing in it; give one with data")
        elif path.stat().st_size == 0:
            complaints.append(f"{where}: the file {path} is empty; give one with data")
    return complaints


def _model_identity(model: str) -> dict[str, str | None]:
    """A local model is its content, wherever it lies; any other is its name."""
    path = Path(model).expanduser()
    return {"model": model, "sha256": path_sha256(path) if path.exists() else None}


def _fingerprint(recipe: Recipe, planned: PlannedStage, inputs: dict[str, Any]) -> str:
    settings = planned.settings.model_dump(mode="json")
    for shown in marked(planned.settings, Presentation):
        _replace(settings, shown.location, None)
    for given in marked(planned.settings, InputFile):
        path = Path(given.value).expanduser()
        _replace(settings, given.location, [path.name, path_sha256(path)])
    for name, identity in inputs.items():
        if isinstance(identity, dict) and identity["sha256"] is not None:
            inputs[name] = identity["sha256"]
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
