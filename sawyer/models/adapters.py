"""A model as a training stage holds it: all of its weights, or low-rank adapters on a frozen body (Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from sawyer.data.chat import ChatFormat
from sawyer.models.save import save_model
from sawyer.train.settings import LoraSettings


class Trainable:
    """What is trained, and how to save it.

    Args:
        load: gives the model in float32; called again at the end when adapters are merged, since the frozen body
            computes in the training precision meanwhile.
        lora: adapters instead of all weights.
        task: peft's task type, CAUSAL_LM or SEQ_CLS (which trains its score head as well).
    """

    def __init__(
        self,
        load: Callable[[], PreTrainedModel],
        lora: LoraSettings | None = None,
        *,
        task: str = "CAUSAL_LM",
        seed: int = 0,
    ) -> None:
        self._load = load
        self._lora = lora
        self._task = task
        self._seed = seed
        self.model: nn.Module = self._with_adapters(load())

    def save(self, folder: Path, chat: ChatFormat) -> None:
        """The model with what it learned, as a folder plain transformers loads; adapters are merged, and also written
        by themselves into `adapter/`."""
        model = self.model
        if self._lora is not None:
            from peft import get_peft_model_state_dict, set_peft_model_state_dict

            learned = {name: tensor.float() for name, tensor in get_peft_model_state_dict(model).items()}
            model = self._with_adapters(self._load())
            set_peft_model_state_dict(model, learned)
            save_model(model, chat.tokenizer, folder / "adapter", merge=False)  # type: ignore[arg-type]
        save_model(model, chat.tokenizer, folder)  # type: ignore[arg-type]
        chat.save(folder)

    def _with_adapters(self, model: PreTrainedModel) -> nn.Module:
        if self._lora is None:
            return model
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(self._seed)
        return get_peft_model(
            model,
            LoraConfig(
                r=self._lora.r,
                lora_alpha=self._lora.alpha,  # type: ignore[arg-type]
                lora_dropout=self._lora.dropout,
                target_modules=self._lora.target_modules,
                task_type=self._task,
            ),
        )
