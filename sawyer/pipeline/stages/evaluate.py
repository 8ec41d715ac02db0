"""Stage `evaluate`: several policies on the same held-out prompts, by gold reward and by proxy, with intervals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.pipeline.stage import NAME, Context, Ref, Stage
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.rollout.sampling import Sampling
from sawyer.settings import Settings as BaseSettings


class Asked(BaseSettings):
    """A policy that is asked for certain attributes."""

    policy: Annotated[str, Ref("policy")]
    """One that was trained with attributes: stage `sft` with `condition`."""
    attributes: dict[str, int] = Field(min_length=1)
    """What it is asked for, name to value; attributes that are not named get their usual value."""


class Settings(EngineSettings, GoldSettings):
    policies: list[Annotated[str, Ref("policy")]] = Field(min_length=1)
    """The policies in the order of the workflow; the first is what the others are compared with."""
    asked: dict[str, Asked] = Field(default_factory=dict)
    """More policies after these, each under a name of its own: such as are asked for certain attributes. The headline
    is about the last."""
    iterates: Literal["all", "best"] = "all"
    """Of an `iterate` stage: every iterate, or the one alone that was the best on validation."""
    previous: bool = True
    """Compare each policy with the one before it too; off where their order means nothing, so that p values are not
    corrected for comparisons that nobody asks about."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from."""
    part: str = "test"
    """Which part of it; it should have been used for nothing else."""
    limit: int | None = Field(default=None, ge=1)
    """Evaluate on at most so many prompts."""
    n: int = Field(default=2, ge=1)
    """Completions of each prompt."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    decodings: list[Literal["sample", "greedy", "nucleus", "beam", "contrastive"]] = Field(default_factory=list)
    """Compare them by these ways of decoding too: `greedy`, `nucleus` (0.95, top-k 50), `beam` (5), `contrastive`."""
    proxy: Annotated[str, Ref("reward_model")] | None = None
    """The reward model that the policies were trained on."""
    reference: Annotated[str, Ref("policy")] | None = None
    """KL is measured to this policy."""
    best_of: int | None = Field(default=None, ge=2)
    """Draw so many samples of each prompt from `reference`, and say what best-of-n by `proxy` would reach from it, for
    every n up to this."""
    token_budget: int = Field(default=4096, ge=16)
    """Tokens in one packed row, of the reward models too."""

    @model_validator(mode="after")
    def _decodings_of_the_engine(self) -> Settings:
        if self.engine == "vllm" and (beyond := {"beam", "contrastive"} & set(self.decodings)):
            raise ValueError(f"`engine: vllm` does not search: leave {sorted(beyond)[0]} out of `decodings`")
        return self

    @model_validator(mode="after")
    def _best_by_what_and_of_whom(self) -> Settings:
        if self.best_of is not None and (self.proxy is None or self.reference is None):
            raise ValueError("`best_of` keeps the best by `proxy` of what `reference` says: name both")
        return self

    @model_validator(mode="after")
    def _names_of_their_own(self) -> Settings:
        for name in self.asked:
            if not NAME.fullmatch(name) or name in (*self.policies, "best-of"):
                raise ValueError(
                    f"a policy of `asked` cannot be called {name!r}; use letters, digits, - and _, and no name that is "
                    "taken"
                )
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._evaluate import evaluate_policies

    return evaluate_policies(settings, context) if context.is_main else {}


STAGE = Stage(
    "evaluate", Settings, run, makes="evaluation", help="policies on held-out prompts, with intervals", version=3
)
