"""How a stage's settings name preference losses."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from sawyer.errors import SawyerError
from sawyer.losses.registry import LOSSES, Loss, check_options, find_loss
from sawyer.settings import Settings

Options = dict[str, float | str]


class LossPart(Settings):
    """One loss of several."""

    name: str
    """What `sawyer losses` calls it."""
    weight: float = Field(default=1.0, gt=0)
    """What it is multiplied by."""
    options: Options = Field(default_factory=dict)
    """Its options, where they are not the defaults."""


class LossSettings(Settings):
    """A loss by name with its options, or several with weights."""

    loss: str | list[LossPart] = "dpo"
    """A loss by name, or several, each with a name, a weight and options."""
    options: Options = Field(default_factory=dict)
    """Options of the loss, where it is one by name."""

    @field_validator("loss")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if not value:
            raise ValueError("name at least one loss; `sawyer losses` lists them")
        return value

    @model_validator(mode="after")
    def _losses_that_fit_together(self) -> LossSettings:
        if self.options and not isinstance(self.loss, str):
            raise ValueError("with several losses each has its own `options`")
        try:
            for part in self.parts:
                check_options(find_loss(part.name), part.options)
        except SawyerError as error:
            raise ValueError(str(error)) from error
        if len(self.losses) > 1 and any(loss.data == "labelled" for loss in self.losses):
            raise ValueError("kto is for single completions with a label, and cannot be mixed with losses of pairs")
        return self

    @property
    def parts(self) -> list[LossPart]:
        """All losses, in one form."""
        return [LossPart(name=self.loss, options=self.options)] if isinstance(self.loss, str) else self.loss

    @property
    def losses(self) -> list[Loss]:
        """What the registry says of them."""
        return [LOSSES[part.name] for part in self.parts]

    def mix(self) -> list[Any]:
        """All of them as `train.preference.Weighted`."""
        from sawyer.train.preference import Weighted

        return [Weighted(LOSSES[part.name], part.weight, part.options) for part in self.parts]
