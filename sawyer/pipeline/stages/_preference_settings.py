"""What the stages `dpo` and `preference` let a recipe say of data, reference and measurements."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Ref
from sawyer.pipeline.stages._common import TrainingSettings
from sawyer.settings import Settings


class SyncSettings(Settings):
    """TR-DPO: a reference that follows the policy while it trains."""

    every: int = Field(default=512, ge=1)
    """Updates of the policy between two of the reference (the paper's tau)."""
    alpha: float = Field(default=0.6, gt=0, le=1)
    """The policy's share in the new reference; 1 makes it the policy as it is (a hard update)."""


class PreferenceSettings(TrainingSettings):
    """Shared by the stages that learn from preferences that are there."""

    model: Annotated[str, Ref("policy")]
    """The policy to start from."""
    data: Annotated[str, Ref("data")]
    """Comparisons; losses of pairs take the best and the worst of more. kto takes labelled completions too."""
    reference: Annotated[str, Ref("policy")] | None = None
    """The reference policy; the one it starts from by default."""
    reference_sync: SyncSettings | None = None
    """Move the reference with the policy while it trains (TR-DPO); none keeps it."""
    chunks: int = Field(default=1, ge=1)
    """Train on so many parts of the data, one after the other, each with the policy that the part before led to as its
    reference (sDPO)."""
    curriculum: Literal["score_margin", "reference_margin", "length"] | None = None
    """From easy to hard in place of a shuffle: a wide margin between the scores, or between the reference's mean
    log-probs a token, or few tokens. With `chunks` the parts are so ordered, and each is shuffled (Curri-DPO)."""
    kl_every: int = Field(default=20, ge=0)
    """Updates between measurements of `kl`, the exact KL divergence from the first reference at a few positions of the
    data; 0 for none."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""

    @property
    def names(self) -> str:
        """The losses."""
        return "dpo"

    @property
    def uses_reference(self) -> bool:
        """Whether a loss has a reference."""
        return True

    @property
    def labelled(self) -> bool:
        """Whether the loss is of single completions."""
        return False

    @model_validator(mode="after")
    def _a_reference_that_is_used(self) -> PreferenceSettings:
        for name, given in (
            ("reference", self.reference is not None),
            ("reference_sync", self.reference_sync is not None),
            ("chunks", self.chunks > 1),
            ("curriculum: reference_margin", self.curriculum == "reference_margin"),
        ):
            if given and not self.uses_reference:
                raise ValueError(f"with {self.names} there is no reference, and `{name}` is set: leave it out")
        return self

    @model_validator(mode="after")
    def _one_way_to_move_it(self) -> PreferenceSettings:
        if self.reference_sync is None:
            return self
        if self.chunks > 1:
            raise ValueError("`chunks` and `reference_sync` both move the reference: choose one")
        if self.lora is not None and self.reference_sync.alpha < 1:
            raise ValueError(
                "the mean of two adapters' factors is not the adapter of their mean: with `lora` set "
                "`reference_sync.alpha` to 1, or train all weights"
            )
        if self.lora is not None and self.reference is not None:
            raise ValueError(
                "with `lora` a reference that moves is the policy's body with earlier adapters, which another "
                "`reference` is not: leave `reference` out"
            )
        return self

    @model_validator(mode="after")
    def _data_that_can_be_ordered(self) -> PreferenceSettings:
        if self.curriculum is not None and self.labelled:
            raise ValueError("`curriculum` orders pairs and rankings, and kto learns from single completions")
        if self.steps is not None and self.steps < self.chunks:
            raise ValueError(f"`steps` {self.steps} is fewer than one update for each of {self.chunks} `chunks`")
        return self
