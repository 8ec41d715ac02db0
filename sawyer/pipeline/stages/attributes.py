"""Stage `attributes`: what each answer is like, in whole numbers, for training a policy that can be asked for it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, FiniteFloat, model_validator

from sawyer.data.attributes import check_name
from sawyer.errors import SawyerError
from sawyer.feedback.computed import Computed
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.settings import Settings as BaseSettings


class Measure(BaseSettings):
    """An attribute that is computed."""

    by: Computed
    """What is computed, as in `gold`: `length` counts words, `verifiable` says how well constraints are met."""
    words: list[str] = Field(default_factory=list)
    """With `bag_of_words`: the words that count, each once."""
    edges: list[FiniteFloat] = Field(min_length=1)
    """Ascending. The attribute is how many of these the measure reaches: with [10, 25], 0 below 10 and 2 from 25 on."""

    @model_validator(mode="after")
    def _ascending(self) -> Measure:
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("`edges` must ascend")
        if (self.by == "bag_of_words") != bool(self.words):
            raise ValueError("`by: bag_of_words` needs `words`, and no other measure takes them")
        return self


class Settings(BaseSettings):
    data: Annotated[str, Ref("data", "completions")]
    """The answers: conversations (their last turn), every completion of comparisons, or what stage `generate` wrote."""
    parts: list[str] | None = Field(default=None, min_length=1)
    """Which parts of the data; all without it."""
    model: Annotated[str, Ref("reward_model")] | None = None
    """The attribute model, from stage `multi_objective`: its ratings, rounded."""
    only: list[str] = Field(default_factory=list)
    """With `model`: the attributes to take; all where none is named."""
    lowest: int = 0
    """With `model`: what is rated lower becomes this."""
    highest: int = 4
    """With `model`: what is rated higher becomes this."""
    measured: dict[str, Measure] = Field(default_factory=dict)
    """Attributes that need no model, by name."""
    max_tokens: int | None = Field(default=None, ge=8)
    """With `model`: a longer prompt and answer loses its beginning; None cuts nothing."""
    token_budget: int = Field(default=4096, ge=16)
    """With `model`: tokens in one forward pass."""

    @model_validator(mode="after")
    def _something_to_measure(self) -> Settings:
        if self.model is None and not self.measured:
            raise ValueError("name an attribute `model`, or attributes that can be `measured`")
        fields = Settings.model_fields
        for name in ("only", "lowest", "highest", "max_tokens", "token_budget"):
            if self.model is None and getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise ValueError(f"`{name}` is for a `model`; name one, or leave `{name}` out")
        if self.lowest >= self.highest:
            raise ValueError(f"`lowest` {self.lowest} is not below `highest` {self.highest}")
        for name in self.measured:
            try:
                check_name(name)
            except SawyerError as error:
                raise ValueError(str(error)) from None
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._attributes import relabel

    return relabel(settings, context) if context.is_main else {}


STAGE = Stage("attributes", Settings, run, makes="data", help="what each answer is like, by a model or by rule")
