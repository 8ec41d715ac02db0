"""Stage `iterate`: online iterative DPO against any reward (Algorithm 2 of the RLHF Workflow), and its relatives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.exploration import ExploreSettings
from sawyer.methods.games import Scores
from sawyer.methods.iterative import PairSettings
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.pipeline.stages._losses import LossSettings
from sawyer.rollout.sampling import Sampling, contradiction
from sawyer.settings import Settings as Settings_
from sawyer.train.settings import OptimizerSettings


class OfflineSettings(Settings_):
    """Pairs that are there already, to be trained on beside the new ones."""

    data: Annotated[str, Ref("data")]
    """Comparisons; of more than two completions the best and the worst."""
    part: str = "train"
    """Which part of them."""
    share: float = Field(default=0.5, gt=0)
    """So many to each new pair; each iteration takes the next ones."""


class TeacherSettings(Settings_):
    """Answers of someone else to the same prompts."""

    data: Annotated[str, Ref("data")]
    """Comparisons; prompts that have none among them get no such answer."""
    part: str = "train"
    """Which part of them."""
    take: Literal["best", "all"] = "best"
    """The best completion of each comparison, or all of them."""


class Settings(OptimizerSettings, EngineSettings, LossSettings, GoldSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from (pi_0)."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from."""
    reward: Annotated[str, Ref("reward_model", "preference_model")] | None = None
    """The model that scores the answers, or compares them. In its place a gold reward, whose answers are counted."""
    part: str = "train"
    """Which part of the data to train on."""
    validation: str = "validation"
    """Prompts on which the best iterate is chosen, by this reward; with a pairwise model by how often it beats pi_0."""
    iterations: int = Field(default=3, ge=1)
    """How often to generate, score and train."""
    prompts: int = Field(default=256, ge=1)
    """Prompts of one iteration; each takes the next ones."""
    validation_prompts: int = Field(default=64, ge=1)
    """How many prompts of the validation part to answer after each iteration."""
    n: int = Field(default=8, ge=2)
    """Completions of each prompt."""
    temperatures: list[float] = Field(default=[1.0, 0.7], min_length=1)
    """The n completions are divided evenly over these."""
    sampling: Sampling = Sampling()
    """How completions are drawn; its temperature is replaced by `temperatures`."""
    pairs: PairSettings = PairSettings()
    """How a pair is made of a prompt's completions."""
    explore: ExploreSettings | None = None
    """Some of the n completions come from earlier policies; none for none."""
    teacher: TeacherSettings | None = None
    """Answers of someone else, scored beside the n (DNO's teacher, SELM's pool); none for none."""
    scores: Scores = "rewards"
    """What losses with scores see of a completion: its reward, or how often it beats the prompt's completions by the
    reward (SPPO)."""
    learn: Literal["pairs", "best"] = "pairs"
    """From pairs by `loss`; or from the best completion alone, by fine-tuning on it (RAFT, rejection sampling)."""
    beta: float = Field(default=0.1, gt=0)
    """DPO's pull to the reference; other losses have theirs in `options`."""
    reference: Literal["fixed", "moving"] = "fixed"
    """pi_0 in every iteration, or the iterate that the answers are drawn from."""
    start: Literal["last", "first"] = "last"
    """Where the training of an iteration starts: at the last iterate, or at pi_0 again."""
    replay: float = Field(default=0.0, ge=0)
    """Pairs of earlier iterations to each new one, the newest of them first."""
    offline: OfflineSettings | None = None
    """Pairs that are there already, to be trained on beside the new ones."""
    kl_every: int = Field(default=20, ge=0)
    """Updates between measurements of `kl`, the exact KL divergence from pi_0 at a few positions of what the first
    iteration trains on; one after the last of each iteration in any case; 0 for none."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of each iteration."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""

    @model_validator(mode="after")
    def _validates_once(self) -> Settings:
        if self.validate_every is not None:
            raise ValueError("`validate_every` has no place here: every iteration ends with a validation")
        return self

    @model_validator(mode="after")
    def _one_that_scores(self) -> Settings:
        if (self.reward is None) != self.has_gold:
            raise ValueError("give `reward`, a model, or a gold reward (`gold: verifiable`), and not both")
        return self

    @model_validator(mode="after")
    def _one_pair_of_the_best(self) -> Settings:
        if self.learn == "best" and self.pairs.rule == "all":
            raise ValueError("`learn: best` fine-tunes on the best completion, and `pairs.rule: all` has several")
        return self

    @model_validator(mode="after")
    def _options_that_do_something(self) -> Settings:
        if self.learn == "best":
            for name in ("beta", "loss", "offline", "options", "reference", "scores"):
                if self._given(name):
                    raise ValueError(f"`learn: best` trains on single completions, and has no use for {name!r}")
        elif any(loss.data != "pairs" for loss in self.losses):
            raise ValueError("`iterate` learns from pairs; `sawyer losses` says which losses do")
        elif self.scores == "rewards" and any(loss.name == "sppo" for loss in self.losses):
            raise ValueError(
                "sppo takes scores for probabilities of winning, and rewards are none: set `scores: win_rates`"
            )
        elif self.scores == "win_rates" and not any(loss.scores for loss in self.losses):
            raise ValueError("`scores: win_rates` is for losses with scores (sppo, dno), and none is given")
        elif self._given("beta") and (self.loss != "dpo" or "beta" in self.options):
            raise ValueError("`beta` is that of the loss dpo; give others theirs in `options`")
        return self

    def _given(self, name: str) -> bool:
        """Whether a setting is another than by default: recipes are written out with all of theirs."""
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return getattr(self, name) != default

    def mix(self) -> list[Any]:
        """As in `LossSettings`; DPO's beta is a setting of its own."""
        if self.loss == "dpo":
            return LossSettings(loss="dpo", options={"beta": self.beta, **self.options}).mix()
        return super().mix()

    @model_validator(mode="after")
    def _sampling_at_its_temperatures(self) -> Settings:
        for temperature in (*self.temperatures, 1.0):  # 1 is that of the validation
            if (reason := contradiction(self.sampling.model_copy(update={"temperature": temperature}))) is not None:
                raise ValueError(
                    f"with its temperature replaced by {temperature:g}, sampling contradicts itself: {reason}"
                )
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._iterate import Iterations

    context.track(settings.trackers)
    return Iterations(settings, context).run()


STAGE = Stage(
    "iterate",
    Settings,
    run,
    makes="policy",
    help="online iterative DPO, and its relatives, against any reward",
    needs=training_needs,
)
