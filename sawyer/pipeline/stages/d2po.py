"""Stage `d2po`: a policy and a discriminator trained in turns on a budget of gold labels, and its two baselines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.d2po import Method, Selection
from sawyer.models.lora import LoraSettings
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import training_needs
from sawyer.pipeline.stages._engines import EngineSettings
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.pipeline.stages._losses import LossSettings
from sawyer.rollout.sampling import Sampling, contradiction
from sawyer.settings import Settings as Settings_
from sawyer.train.settings import OptimizerSettings


def changed(settings: Settings_) -> set[str]:
    """The settings that are not at their defaults: written out, a recipe has all of them."""
    defaults = {name: f.get_default(call_default_factory=True) for name, f in type(settings).model_fields.items()}
    return {name for name, default in defaults.items() if getattr(settings, name) != default}


class DiscriminatorSettings(Settings_):
    """The reward model that labels what no gold label was bought for."""

    model: Annotated[str, Ref("policy", "reward_model")] | None = None
    """What it starts from, of the policy's tokenizer: a reward model, or a policy, which gets a fresh head; the policy
    that is trained, with a fresh head, when left out."""
    learn_from: Literal["cycle", "all"] = "cycle"
    """What it is fitted to when a cycle's labels have been bought: those alone, or all that there are."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over them."""
    first_epochs: float = Field(default=10.0, gt=0)
    """Passes over the first labels, those of answers of the initial policy."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of every fit, after which the optimiser is forgotten."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs in one update of it."""
    centring: float = Field(default=0.01, ge=0)
    """Weight of (r_w + r_l)^2, which keeps rewards near zero and changes no preference."""
    lora: LoraSettings | None = None
    """Train adapters instead of all weights; its head is trained in any case."""


class Settings(OptimizerSettings, EngineSettings, LossSettings, GoldSettings):
    model: Annotated[str, Ref("policy")]
    """The policy to start from, and the reference (pi_0)."""
    data: Annotated[str, Ref("data")]
    """Where the prompts come from."""
    part: str = "train"
    """Which part of the data to train on."""
    validation: str | None = None
    """Prompts to answer every `validate_every` updates and at the end."""
    validation_prompts: int = Field(default=64, ge=1)
    """How many of them."""
    method: Method = "d2po"
    """`d2po`; or one of its baselines on the same budget: `frozen`, whose discriminator learns from labels of the
    initial policy's answers and never again, and `oaif`, which has none and learns from gold labels alone."""
    budget: int = Field(ge=1)
    """Gold labels that may be bought in all, one for a pair."""
    first_labels: int | None = Field(default=None, ge=0)
    """With `d2po`: how many of them for answers of the initial policy, before the first update; as many as `labels`
    when left out, or none where the discriminator is a reward model already. `frozen` buys the whole budget there."""
    labels: int | None = Field(default=None, ge=1)
    """How many a cycle may buy: 8 when left out; with `oaif` as many as an update has pairs."""
    label_every: int | None = Field(default=None, ge=1)
    """Updates in a cycle: 4 when left out; with `oaif` 1."""
    selection: Selection | None = None
    """Which pairs are labelled: those that the discriminator is least sure of (`confidence`, when left out), or any
    (`random`, what `oaif` does)."""
    silver_margin: float = Field(default=0.0, ge=0)
    """Pairs without gold label whose scores by the discriminator differ by no more are not trained on; 0 drops ties."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """The reward model that is trained beside the policy."""
    watch_gold: bool = True
    """Log the gold reward of all answers, and how often the discriminator is right about them. What is only watched is
    neither paid for nor learned from."""
    steps: int = Field(default=64, ge=1)
    """Updates, each on `batch_size` prompts: the next ones of the data."""
    n: int = Field(default=2, ge=2)
    """Completions of each prompt; of more than two, the best and the worst by the discriminator are a pair."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of the policy."""
    chat_template: str | None = None
    """Name of a built-in chat template, or Jinja text; the tokenizer's own by default."""

    @model_validator(mode="after")
    def _fitting(self) -> Settings:
        if not self.has_gold:
            raise ValueError("labels have to come from somewhere: give `gold`, `gold_model` or `gold_contrast`")
        if "epochs" in changed(self):
            raise ValueError("`epochs` has no place here: `steps` says how many updates there are")
        if self.validate_every is not None and self.validation is None:
            raise ValueError("`validate_every` needs prompts to measure on: name a part with `validation`")
        for loss in self.losses:
            if loss.data != "pairs" or loss.scores:
                raise ValueError(
                    f"`d2po` learns from pairs, whose gold and silver scores are not on one scale, and the loss "
                    f"{loss.name} needs {', '.join(loss.needs)}"
                )
        if (reason := contradiction(self.sampling)) is not None:
            raise ValueError(f"sampling contradicts itself: {reason}")
        return self

    @model_validator(mode="after")
    def _options_that_do_something(self) -> Settings:
        idle: set[str] = {
            "d2po": set(),
            "frozen": {"first_labels", "labels", "label_every", "selection"},
            "oaif": {"first_labels", "selection", "silver_margin", "discriminator"},
        }[self.method] & changed(self)
        if idle:
            raise ValueError(f"`method: {self.method}` has no use for `{sorted(idle)[0]}`; leave it out")
        if self.method == "frozen" and {"epochs", "learn_from"} & changed(self.discriminator):
            raise ValueError("`method: frozen` fits its discriminator once: leave out its `epochs` and `learn_from`")
        return self

    @model_validator(mode="after")
    def _within_the_budget(self) -> Settings:
        if self.method == "frozen":
            return self
        if self.budget < self.of_cycle:
            raise ValueError(
                f"`budget` is {self.budget}, fewer gold labels than one cycle buys ({self.of_cycle}): raise it, or "
                "lower `labels`"
            )
        if self.of_cycle > self.cycle * self.batch_size:
            raise ValueError(
                f"a cycle of {self.cycle} updates has {self.cycle * self.batch_size} pairs and cannot buy labels for "
                f"{self.of_cycle}: lower `labels`, or raise `label_every`"
            )
        if self.method == "d2po" and (self.first_labels or 0) > self.budget:
            raise ValueError(f"`first_labels` is {self.first_labels}, more than the `budget` of {self.budget}")
        if self.method == "d2po" and self.discriminator.model is None and self.first_labels == 0:
            raise ValueError(
                "a discriminator with a fresh head knows nothing: give it `first_labels` above 0, or a reward model as "
                "`discriminator.model`"
            )
        return self

    @property
    def of_cycle(self) -> int:
        """Labels that a cycle may buy."""
        return self.labels or (self.batch_size * self.cycle if self.method == "oaif" else 8)

    @property
    def cycle(self) -> int:
        """Updates in a cycle."""
        return self.label_every or (1 if self.method == "oaif" else 4)

    @property
    def selects(self) -> Selection:
        """Which pairs are labelled."""
        return "random" if self.method == "oaif" else self.selection or "confidence"


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._d2po import Rounds

    context.track(settings.trackers)
    return Rounds(settings, context).run()


def _needs(settings: Settings, weights: int) -> dict[str, float]:
    """Those of the policy's training, and of a second model beside it."""
    needs = training_needs(settings, weights)
    if settings.method == "oaif":
        return needs
    adapters = settings.discriminator.lora is not None
    return {
        "memory_gb": needs["memory_gb"] + (5 if adapters else 20) * weights / 1e9,
        "disk_gb": needs["disk_gb"] + 4 * weights / 1e9,
        "scratch_gb": needs["scratch_gb"] + (1 if adapters else 24) * weights / 1e9,
    }


STAGE = Stage(
    "d2po",
    Settings,
    run,
    makes="policy",
    help="a policy and a discriminator trained in turns on a budget of gold labels (D2PO), and its baselines",
    needs=_needs,
)
