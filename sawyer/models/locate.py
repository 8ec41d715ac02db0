"""From the name of a model to a folder with its files: the embedded model, a local folder, or a hub id."""

import json
import re
from pathlib import Path

from sawyer.errors import SawyerError, reason
from sawyer.models.embedded import ALIASES, HUB_ID, cached_model, embedded_model

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_NOT_FETCHED = ["*/*", "consolidated*"]  # sub-folders hold other formats of the same weights
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
BI_ENCODER = "bi_encoder.json"
"""The file that tells a bi-encoder's folder from its encoder's."""
MULTI_OBJECTIVE = "multi_objective.json"
"""The file that tells the folder of a reward of many attributes from its decoder's."""


def resolve(name: str) -> str:
    """What `name` stands for: a local folder or GGUF file as a path, or a hub id unchanged; nothing is downloaded but
    the embedded model.

    `smollm2` (or `smollm2-135m-instruct`, or its hub id) is the embedded model. A local folder must hold `config.json`
    or `adapter_config.json`. Raises SawyerError for a path that is no model and for what cannot be a hub id.
    """
    name = str(name)
    path = Path(name).expanduser()
    if path.exists():
        return str(_checked_path(path))
    if name.lower() in ALIASES:
        return str(embedded_model())
    if not _HUB_ID.fullmatch(name) or name.endswith(".gguf"):
        raise SawyerError(
            f"There is no model at {name}: give a folder that exists, the name of a model on the Hugging Face hub "
            "such as org/model, or smollm2."
        )
    return name


def locate(name: str) -> Path:
    """The local folder (or GGUF file) with the files of the model `name`, downloaded from the hub if need be.

    Raises SawyerError as `resolve` does, and for an unknown or closed hub id or no network.
    """
    place = resolve(name)
    return Path(place) if Path(place).exists() else _from_hub(place)


def origin(name: str, *, fetch: bool = False) -> dict[str, str]:
    """Which weights `name`, which is no path, stands for: of the embedded model what its `source.json` says, of a model
    on the hub the `revision` (commit).

    Empty where nothing of it is on this machine; with `fetch` it is downloaded first. Raises SawyerError as `locate`
    does.
    """
    embedded = name.lower() in ALIASES
    folder = locate(name) if fetch else cached_model() if embedded else _cached_snapshot(name)
    if folder is None:
        return {}
    return read_json(folder / "source.json") if embedded else {"revision": folder.name}


def portable_name(name: str) -> str:
    """How an adapter should call its base so that it is found again: an absolute path, or the hub id."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    return HUB_ID if name.lower() in ALIASES else name


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model's weights, each checked to be complete.

    Raises SawyerError where weights are missing, come as pickle (which can run code when it is read), or are cut short.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / shard for shard in sorted(set(read_json(index).get("weight_map", {}).values()))]
        for file in files:
            if not file.is_file():
                raise SawyerError(f"{file} is missing, though {index.name} lists it: download or copy the model again.")
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
        if pickled:
            raise SawyerError(
                f"{folder} holds its weights as pickle ({pickled[0]}), which can run any code when it is read: convert "
                "them to safetensors first."
            )
        raise SawyerError(
            f"{folder} holds no weights: a model.safetensors (or its shards) should lie beside config.json."
        )
    for file in files:
        check_complete(file)
    return files


def check_complete(file: Path) -> None:
    """Raise SawyerError unless `file` is a whole safetensors file. Reads its header only."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise SawyerError(
            f"{file} is cut short or damaged ({reason(error)}): download or copy the model again."
        ) from error


def is_classifier(place: Path) -> bool:
    """Whether the model in a folder is a sequence classifier, or an adapter that makes one of its base."""
    adapter, config = place / "adapter_config.json", place / "config.json"
    if adapter.is_file():
        return read_json(adapter).get("task_type") == "SEQ_CLS"
    kinds = read_json(config).get("architectures") if config.is_file() else None
    return any("ForSequenceClassification" in kind for kind in kinds or ())


def is_reward_model(place: Path) -> bool:
    """Whether the model in a folder scores text: a sequence classifier, a bi-encoder, a reward of many attributes."""
    return is_classifier(place) or any((place / marker).is_file() for marker in (BI_ENCODER, MULTI_OBJECTIVE))


def read_json(file: Path) -> dict:
    """The JSON object in `file`; raises SawyerError naming the file where it is something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SawyerError(f"{file} is not readable JSON ({reason(error)}): copy the model again.") from error
    if not isinstance(content, dict):
        raise SawyerError(f"{file} should hold a JSON object and does not: copy the model again.")
    return content


def _checked_path(path: Path) -> Path:
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise SawyerError(f"{path} is a file: give the model's folder (the one with config.json), or a .gguf file.")
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise SawyerError(
            f"{path} is not a model folder, for it holds no config.json: give the folder that holds config.json and "
            "model.safetensors."
        )
    return path


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_FETCHED, ignore_patterns=_NOT_FETCHED, etag_timeout=10))
    except GatedRepoError as error:
        raise SawyerError(
            f"{hub_id} is open only to those who accepted its licence: accept it on its hub page, then log in with "
            "`hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SawyerError(
            f"{hub_id} is neither a local folder nor a model on the Hugging Face hub that you may read: check the "
            "spelling, or log in with `hf auth login` if it is private."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise SawyerError(
            f"{hub_id} is not a local folder and could not be fetched from the Hugging Face hub ({reason(error)}): "
            "check the name and the network, or use smollm2, which needs no hub."
        ) from error
    return _checked_path(folder)


def _cached_snapshot(hub_id: str) -> Path | None:
    """Where the hub's own cache holds the model, as far as it was downloaded; asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(hub_id, file) for file in ("config.json", "adapter_config.json")]
    except HFValidationError:
        return None
    return next((Path(file).parent for file in found if isinstance(file, str)), None)
