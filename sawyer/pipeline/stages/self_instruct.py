"""Stage `self_instruct`: instructions that a model makes out of a few seed tasks, with inputs and outputs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sawyer.data.splits import fractions_problem
from sawyer.methods.self_instruct import InstructionSettings
from sawyer.pipeline.stage import NAME, Context, Ref, Stage
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.sampling import Sampling
from sawyer.settings import InputFile


class Settings(EngineSettings, InstructionSettings):
    model: Annotated[str, Ref("policy")] | None = None
    """The model that writes everything."""
    remote: str | None = None
    """Or what an endpoint calls it."""
    api: ApiSettings = ApiSettings()
    """With `remote`: the endpoint. What it has answered is kept until the stage is finished."""
    chat_template: str | None = None
    """Of `model`: name of a built-in chat template, or Jinja text; the tokenizer's own by default."""
    seeds: Annotated[str | None, InputFile(folder=False)] = None
    """File of seed tasks, in Alpaca's or Self-Instruct's format; our own 42 without it."""
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.5, presence_penalty=2.0, max_tokens=512)
    """How instructions are drawn; Self-Instruct's by default."""
    inputs: bool = True
    """Have the model write an input for each instruction, or say that it needs none."""
    outputs: bool = True
    """Have it write the outputs too; without them the result is prompts."""
    input_examples: int = Field(default=4, ge=0)
    """Seed tasks shown with the request for an input, half of them with one."""
    output_examples: int = Field(default=0, ge=0)
    """Seed tasks shown with the request for an output: for models that were not tuned on instructions."""
    answer_sampling: Sampling = Sampling(temperature=0.0, max_tokens=256)
    """How inputs and outputs are drawn."""
    split: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default={"train": 1.0}, min_length=1)
    """Name and share of each part of the result, in sum 1."""
    split_seed: int = 0
    """Which instructions go to which part, as in stage `data`."""

    @model_validator(mode="after")
    def _one_model(self) -> Settings:
        if (self.model is None) == (self.remote is None):
            raise ValueError("a `model` of the recipe writes the instructions, or a `remote` one: give one of the two")
        if self.remote is None and self.api != ApiSettings():
            raise ValueError("`api` is for a `remote` model")
        if self.remote is not None and (self.engine != "torch" or self.chat_template is not None):
            raise ValueError("`engine` and `chat_template` are for a `model` of the recipe, and `remote` is elsewhere")
        return self

    @model_validator(mode="after")
    def _parts_that_can_be(self) -> Settings:
        for name in self.split:
            if not NAME.fullmatch(name) or name.lower() == "metrics":
                raise ValueError(f"a part cannot be called {name!r}; use letters, digits, - and _, and not metrics")
        if (problem := fractions_problem(self.split)) is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _answers_to_shape(self) -> Settings:
        fields = Settings.model_fields
        for name, needed in (("input_examples", "inputs"), ("output_examples", "outputs")):
            if not getattr(self, needed) and getattr(self, name) != fields[name].default:
                raise ValueError(f"`{name}` is for `{needed}`, which is off; leave it out")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._self_instruct import self_instruct

    return self_instruct(settings, context) if context.is_main else {}


STAGE = Stage(
    "self_instruct", Settings, run, makes="data", help="instructions that a model makes out of seed tasks, with outputs"
)
