"""AdamW on float32 master weights, for a model that may compute in bfloat16.

In fp32 the masters are the model's own parameters. In bf16 the model's weights are rounded once after each update,
not at every use as under autocast: the forward and backward run on bfloat16 tensors throughout, gradients of packed
rows are added up in float32, and the update happens on the float32 masters, so that steps smaller than bfloat16's
resolution are not lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from sawyer.models.precision import cast
from sawyer.train.settings import OptimizerSettings


def learning_rate(step: int, total: int, settings: OptimizerSettings) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up to the peak, then the schedule."""
    warmup = round(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(1, total - warmup)
    share = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * share


class MasterWeights:
    """The trainable weights in float32, their optimiser, and the model's copy in compute precision.

    Args:
        model: its floating-point weights are cast to the compute precision, frozen ones included.
        precision: "fp32" or "bf16".
        apart: which weights, by name, have a learning rate of their own; none by default.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OptimizerSettings,
        precision: str,
        apart: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.settings = settings
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: p.data.float() for name, p in trainable.items()}
        cast(model, precision)
        if precision == "fp32":
            for name, p in trainable.items():
                p.data = self.masters[name]
        self.weights = trainable
        self.copies = precision == "bf16"
        # kept from update to update: allocated among the activations, they would leave the heap in pieces
        sums = {name: torch.empty_like(master) if self.copies else None for name, master in self.masters.items()}
        self._hooks = [
            p.register_post_accumulate_grad_hook(partial(self._collect, self.masters[name], sums[name]))
            for name, p in trainable.items()
        ]
        groups: list[dict] = []
        for own in sorted({apart(name) for name in self.masters}):
            mine = [master for name, master in self.masters.items() if apart(name) == own]
            groups += [
                {"params": [m for m in mine if m.ndim >= 2], "weight_decay": settings.weight_decay, "apart": own},
                {"params": [m for m in mine if m.ndim < 2], "weight_decay": 0.0, "apart": own},
            ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            fused=True,
        )

    @staticmethod
    def _collect(master: torch.Tensor, total: torch.Tensor | None, weight: torch.Tensor) -> None:
        """Move a weight's gradient to its master, as soon as the backward has made it: the two never pile up."""
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad if total is None else total.copy_(weight.grad)
        else:
            master.grad += weight.grad
        weight.grad = None

    def update(
        self,
        rate: float,
        reduce: Callable[[torch.Tensor], None] | None = None,
        apart_rate: float | None = None,
    ) -> float:
        """One step from the collected gradients: all-reduce, clip, AdamW, round. Returns the norm before clipping.

        Args:
            rate: this update's learning rate.
            reduce: with several processes, the function that sums a tensor over them in place.
            apart_rate: that of the weights that have their own; `rate` by default.
        """
        masters = list(self.masters.values())
        for master in masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            if reduce is not None:
                reduce(master.grad)
        norm = torch.nn.utils.clip_grad_norm_(masters, self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad()
            return float("nan")
        for group in self.optimizer.param_groups:
            group["lr"] = apart_rate if group["apart"] and apart_rate is not None else rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.round()
        return float(norm)

    @torch.no_grad()
    def round(self) -> None:
        """Bring the model's copy up to date with the masters."""
        if self.copies:
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])

    def state(self) -> dict[str, torch.Tensor]:
        """Masters and running averages, by name; everything an exact continuation needs."""
        tensors = {}
        for name, master in self.masters.items():
            tensors[f"master/{name}"] = master
            for key, value in self.optimizer.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state()`."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master/{name}"])
            self.optimizer.state[master] = {
                key: tensors[f"{key}/{name}"].clone().to(master.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
        self.round()

    def release(self) -> None:
        """Stop taking the model's gradients: the training is over."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def install(self) -> None:
        """Give the model its float32 weights back, to be saved. Training cannot go on after this."""
        self.release()
        for name, weight in self.weights.items():
            weight.data = self.masters[name]
