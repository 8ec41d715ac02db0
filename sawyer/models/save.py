"""Saving: a folder that plain transformers loads, with everything that belongs to the model in it."""

import copy
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sawyer.errors import SawyerError, reason
from sawyer.models.progress import without_progress_bars


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | str,
    *,
    merge: bool = True,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write weights (safetensors), configuration, generation settings, tokenizer and chat template into `folder`.

    A `PeftModel` is merged into its base (in a copy: training can go on), or, with `merge=False`, only its adapter is
    written. `dtype` stores the weights in another precision, for example `torch.bfloat16` in half the space, and leaves
    the model as it is. The files are written in place: whoever wants all or nothing gives a temporary folder and
    renames it. Raises SawyerError where the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with without_progress_bars():
            _write_weights(model, folder, merge=merge, dtype=dtype)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise SawyerError(
            f"The model could not be written to {folder} ({why}): "
            "free space there, or choose another folder with --out."
        ) from error
    return folder


def _write_weights(model: PreTrainedModel, folder: Path, *, merge: bool, dtype: torch.dtype | None) -> None:
    from peft import PeftModel

    if isinstance(model, PeftModel):
        if merge:
            if getattr(model.get_base_model(), "is_quantized", False):
                raise SawyerError(
                    "An adapter cannot be merged into a quantised model without loss: save the adapter alone, and "
                    "merge it into the full-precision model."
                )
            model = copy.deepcopy(model).merge_and_unload()
        else:
            model.save_pretrained(str(folder), state_dict=_cast(model.state_dict(), dtype) if dtype else None)
            return
    if dtype is None or dtype == model.dtype:
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder, state_dict=_cast(model.state_dict(), dtype))
    config = folder / "config.json"
    content = json.loads(config.read_text())
    content["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The floating tensors in `dtype`; tensors that share memory (tied weights) still do."""
    done: dict[int, torch.Tensor] = {}
    cast = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            cast[name] = tensor
            continue
        key = tensor.data_ptr()
        if key not in done:
            done[key] = tensor.to(dtype)
        cast[name] = done[key]
    return cast
