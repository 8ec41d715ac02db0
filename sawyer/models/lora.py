"""Which adapters a model gets. No torch in here: recipes are checked without it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sawyer.settings import Settings


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021) in place of full fine-tuning."""

    r: int = Field(default=16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(default=32, gt=0)
    """Scale: the adapter's output is multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Which layers get adapters."""
    merge: bool = True
    """Write the whole model, the adapters merged in. Without, the adapters alone, in some MB: they load on the model
    that they were trained on, which has to stay where it is."""
