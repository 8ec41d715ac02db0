"""Stage `critique`: answers, criticised and revised by the principles of a constitution; what to imitate and what to
prefer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.errors import SawyerError
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._classify import ClassifierSettings
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._speakers import AskedSettings, SpeakerSettings
from sawyer.rollout.sampling import Sampling
from sawyer.settings import InputFile
from sawyer.settings import Settings as BaseSettings

REVISIONS, PAIRS = "revisions", "pairs"
"""What the two parts that are made of a part are called: `train-revisions`, `train-pairs`."""


class PrincipleJudgeSettings(AskedSettings):
    """A language model that says which of two answers follows a principle better."""

    read: Literal["text", "probability"] = "text"
    """What it says, or how probable the letters A and B are to it; of a `remote` model, where the endpoint tells."""
    both_orders: bool = True
    """Ask for each pair twice, the answers changed round, and take the mean."""
    step_by_step: bool = False
    """Let it think before it says."""

    @model_validator(mode="after")
    def _nothing_said(self) -> PrincipleJudgeSettings:
        given = self.changed("temperature", "samples", "retries", "max_tokens", "step_by_step")
        if self.read == "probability" and self.remote is None and given:
            raise ValueError(f"`read: probability` has a model say nothing: leave `{given[0]}` out")
        return self


class HelpfulSettings(BaseSettings):
    """Answers to be imitated beside the revisions, so that refusing is not all that is learned."""

    data: Annotated[str, Ref("data")]
    """Conversations; of comparisons the best completion."""
    part: str = "train"
    """Which part of them."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many."""


class Settings(EngineSettings, SpeakerSettings):
    """What answers is `model`, or `remote` with its `api`."""

    data: Annotated[str, Ref("data")]
    """Where the prompts come from: a `redteam` stage, say."""
    parts: list[str] = Field(default=["train"], min_length=1)
    """Which parts of it. Of `train` come the parts `train-revisions` and `train-pairs`."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many prompts of each part."""
    n: int = Field(default=1, ge=1)
    """Answers to each prompt, each criticised and revised for itself."""
    sampling: Sampling = Sampling(max_tokens=128)
    """How answers are drawn."""
    constitution: Annotated[str, InputFile(folder=False)] | None = None
    """A YAML file of principles with weights, and of examples; Sawyer's own when left out."""
    rounds: int = Field(default=1, ge=0)
    """Rounds of critique and revision, each by another principle; 0 leaves the answers as they are, for a `judge`."""
    critiques: bool = True
    """Ask for a critique before each revision; without, the revision is asked for by the principle alone."""
    examples: int | None = Field(default=None, ge=0)
    """How many examples of the constitution stand before each question; the first two of it when left out."""
    step_by_step: bool = False
    """Let the critic think step by step."""
    critic: SpeakerSettings | None = None
    """Who criticises; what answers when left out."""
    reviser: SpeakerSettings | None = None
    """Who revises; the critic when left out."""
    critique_sampling: Sampling = Sampling(temperature=0.7, max_tokens=128)
    """How critiques are drawn."""
    revision_sampling: Sampling = Sampling(temperature=0.7, max_tokens=128)
    """How revisions are drawn."""
    accept: ClassifierSettings | None = None
    """Take a revision only where this finds it harmless, and a pair only where it finds the answer before harmful."""
    judge: PrincipleJudgeSettings | None = None
    """Who says by a principle which of two is better: the revision or the answer before it, or, with `rounds: 0`, the
    two answers to a prompt. Without a judge the revision is preferred."""
    helpful: HelpfulSettings | None = None
    """What is imitated besides."""

    @model_validator(mode="after")
    def _something_to_compare(self) -> Settings:
        if self.rounds == 0:
            if self.judge is None or self.n != 2:
                raise ValueError("`rounds: 0` revises nothing: it is for a `judge` of the answers, with `n: 2`")
            idle = ("critic", "reviser", "accept", "helpful", "critiques", "examples", "step_by_step")
            if given := self.changed(*idle):
                raise ValueError(f"`rounds: 0` revises nothing, so `{given[0]}` has no meaning: leave it out")
        if self.judge is not None and self.judge.read == "probability" and self.judge.model and self.engine == "vllm":
            raise ValueError("`read: probability` reads a `model` of the recipe on the torch engine, not on vllm")
        if not self.critiques and self.changed("critic", "critique_sampling", "step_by_step"):
            raise ValueError("`critiques: false` asks for none: leave out what is for the critic; a `reviser` revises")
        if self.sampling.temperature == 0 and self.n > 1:
            raise ValueError("`n` answers at temperature 0 are all the same: raise it, or take one")
        return self

    @model_validator(mode="after")
    def _a_constitution_that_can_be_read(self) -> Settings:
        """A broken file is refused with the recipe; one that is not there, where models and files are looked for."""
        from sawyer.pipeline.constitution import load_constitution

        if self.constitution is not None and not Path(self.constitution).is_file():
            return self
        try:
            found = load_constitution(self.constitution)
        except SawyerError as error:
            raise ValueError(str(error)) from None
        if self.examples is not None and self.examples > len(found.examples):
            raise ValueError(
                f"`examples: {self.examples}` is more than the constitution has, {len(found.examples)}: add some, or "
                "ask for fewer"
            )
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._critique import Critique

    return Critique(settings, context).run() if context.is_main else {}


STAGE = Stage(
    "critique", Settings, run, makes="data", help="answers revised by principles: what to imitate and what to prefer"
)
