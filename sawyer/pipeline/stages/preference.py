"""Stage `preference`: any loss of `sawyer losses`, or a weighted sum of several, on pairs, rankings or labels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sawyer.errors import SawyerError
from sawyer.losses.registry import LOSSES, check_options, find_loss
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import TrainingSettings, training_needs
from sawyer.settings import Settings as BaseSettings

Options = dict[str, float | str]


class Part(BaseSettings):
    """One loss of several."""

    name: str
    """What `sawyer losses` calls it."""
    weight: float = Field(default=1.0, gt=0)
    """What it is multiplied by."""
    options: Options = Field(default_factory=dict)
    """Its options, where they are not the defaults."""


class Settings(TrainingSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from."""
    data: Annotated[str, Ref("data")]
    """Comparisons; kto takes labelled completions too. Losses of pairs take the best and the worst of more."""
    loss: str | list[Part] = "dpo"
    """A loss by name, or several, each with a name, a weight and options."""
    options: Options = Field(default_factory=dict)
    """Options of the loss, where it is one by name."""
    reference: Annotated[str, Ref("policy")] | None = None
    """The reference policy; the one it starts from by default."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""

    @field_validator("loss")
    @classmethod
    def _not_empty(cls, value: str | list[Part]) -> str | list[Part]:
        if not value:
            raise ValueError("name at least one loss; `sawyer losses` lists them")
        return value

    @model_validator(mode="after")
    def _losses_that_fit_together(self) -> Settings:
        if self.options and not isinstance(self.loss, str):
            raise ValueError("with several losses each has its own `options`")
        try:
            for part in self.parts:
                check_options(find_loss(part.name), part.options)
        except SawyerError as error:
            raise ValueError(str(error)) from error
        losses = [LOSSES[part.name] for part in self.parts]
        if len(losses) > 1 and any(loss.data == "labelled" for loss in losses):
            raise ValueError("kto is for single completions with a label, and cannot be mixed with losses of pairs")
        if self.reference is not None and not any(loss.reference for loss in losses):
            raise ValueError(
                f"{' and '.join(loss.name for loss in losses)} use no reference, and `reference` is set: leave it out"
            )
        return self

    @property
    def parts(self) -> list[Part]:
        """All losses, in one form."""
        return [Part(name=self.loss, options=self.options)] if isinstance(self.loss, str) else self.loss


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._preference import train
    from sawyer.train.preference import Weighted

    return train(settings, context, [Weighted(LOSSES[part.name], part.weight, part.options) for part in settings.parts])


STAGE = Stage(
    "preference",
    Settings,
    run,
    makes="policy",
    help="preference optimisation with any loss, or several",
    needs=training_needs,
)
