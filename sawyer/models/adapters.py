"""A model as a training stage holds it: all of its weights, or low-rank adapters on a frozen body (Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from sawyer.data.chat import ChatFormat
from sawyer.data.pair_format import PairFormat
from sawyer.models.lora import LoraSettings
from sawyer.models.save import save_model


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

    def learned(self) -> dict[str, torch.Tensor]:
        """What training changes, in float32: all weights, or the adapters. The tensors are the model's own."""
        if self._lora is None:
            return {name: p.detach().float() for name, p in self.model.named_parameters()}
        from peft import get_peft_model_state_dict

        return {name: tensor.detach().float() for name, tensor in get_peft_model_state_dict(self.model).items()}

    def take(self, learned: Mapping[str, torch.Tensor]) -> None:
        """Go to what `learned` gave at another time."""
        if self._lora is None:
            for name, parameter in self.model.named_parameters():
                parameter.data = learned[name].to(parameter.device)
            return
        from peft import set_peft_model_state_dict

        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        set_peft_model_state_dict(self.model, dict(learned))

    def merged(self) -> dict[str, torch.Tensor]:
        """The weights of the plain model that computes the same, by its names, for an engine that generates with it."""
        if self._lora is None:
            return {name: p.detach() for name, p in self.model.named_parameters()}
        from peft.tuners.lora import LoraLayer

        core = cast(Any, self.model).get_base_model()
        deltas = {
            f"{name}.base_layer.weight": cast(Any, module).get_delta_weight("default").detach()
            for name, module in core.named_modules()
            if isinstance(module, LoraLayer)
        }
        return {
            name.replace(".base_layer.", "."): p.detach() if name not in deltas else p.detach().float() + deltas[name]
            for name, p in core.named_parameters()
            if ".lora_" not in name
        }

    def save(
        self,
        folder: Path,
        chat: ChatFormat | PairFormat,
        *,
        dtype: torch.dtype | None = None,
        finish: Callable[[Any], None] | None = None,
    ) -> None:
        """The model with what it learned, as a folder plain transformers loads; adapters are merged, and also written
        by themselves into `adapter/`; with `lora.merge` off they are all that is written.

        Args:
            chat: how the model reads text; its tokenizer is saved with the model.
            dtype: stores the weights in another precision than the model's.
            finish: changes the merged model before it is written (an adapter alone is then not written: it is of the
                model before).
        """
        model: Any = self.model
        if self._lora is not None:
            from peft import set_peft_model_state_dict

            model = self._with_adapters(self._load())
            set_peft_model_state_dict(model, self.learned())
            if finish is None and not self._lora.merge:
                save_model(model, chat.tokenizer, folder, merge=False)
                chat.save(folder)
                return
            if finish is None:
                save_model(model, chat.tokenizer, folder / "adapter", merge=False)
            else:
                model = model.merge_and_unload()
        if finish is not None:
            finish(model)
        save_model(model, chat.tokenizer, folder, dtype=dtype)
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
                lora_alpha=self._lora.alpha,  # type: ignore[arg-type]  # peft says int, and divides it
                lora_dropout=self._lora.dropout,
                target_modules=self._lora.target_modules,
                task_type=self._task,
            ),
        )
