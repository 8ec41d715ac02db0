"""Models that come as one GGUF file: read, and turned into an ordinary model that can be trained and saved."""

import contextlib
import io
import struct
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sawyer.errors import SawyerError, reason
from sawyer.models.progress import without_progress_bars

_UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, struct.error)


def read_gguf(
    path: Path, *, dtype: torch.dtype = torch.float32, attn_implementation: str | None = None
) -> PreTrainedModel:
    """The causal LM in a GGUF file, its quantised weights unpacked to `dtype`.

    transformers marks what it read from a GGUF as quantised, and such a model cannot be saved; so the weights move into
    a fresh model of the same configuration. Raises SawyerError for a file that is not a complete GGUF of an
    architecture that transformers knows.
    """
    try:
        with without_progress_bars(), contextlib.redirect_stderr(io.StringIO()):  # the unpacking has a bar of its own
            packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    except _UNREADABLE as error:
        raise SawyerError(
            f"{path} cannot be read as a GGUF model ({reason(error)}): give a complete GGUF file of a language model."
        ) from error
    config = packed.config
    for leftover in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, leftover):
            delattr(config, leftover)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    return model.eval()


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, chat template included. Raises SawyerError where there is none."""
    try:
        with without_progress_bars():
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except _UNREADABLE as error:
        raise SawyerError(
            f"{path} holds no tokenizer that can be read ({reason(error)}): give a complete GGUF file."
        ) from error
