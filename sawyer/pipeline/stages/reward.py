"""Stage `reward`: a Bradley-Terry reward model, a decoder or an encoder, and how well it judges held-out pairs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._common import TrainingSettings, training_needs


class Settings(TrainingSettings):
    model: Annotated[str, Ref("policy", "reward_model")]
    """The model to start from; a policy or an encoder gets a fresh head."""
    data: Annotated[str, Ref("data")]
    """Comparisons; of more than two completions the whole ranking is learned (Plackett-Luce)."""
    calibrate: str | None = None
    """Which part of the data to fit the calibration's temperature on, to be measured on the part `validation`; without
    it, half of the prompts of that part, to be measured on the other half."""
    encoder: Literal["cross", "bi"] | None = None
    """For an encoder (RoBERTa's shape): `cross` reads prompt and completion in one sequence, `bi` embeds each by itself
    and takes their dot product. What exceeds `max_tokens` or the encoder's context is cut and counted."""
    heads: Literal["scalar", "odin"] = "scalar"
    """`odin` learns a second head for length and drops it in the end, so that the first depends on length less."""
    odin_weight: float = Field(default=1.0, ge=0)
    """With `odin`: weight of 1 - corr(length, length head) + |corr(length, quality head)|, over each packed row."""
    gap: Literal["ignore", "margin", "weight", "square"] = "ignore"
    """How the difference between a pair's scores enters the loss: not; as a margin, `gap_scale` x gap (Llama 2); as the
    pair's weight, gap / mean gap; squared inside the sigmoid, (`gap_scale` x gap)^2 (r_w - r_l) (SAWYER)."""
    gap_scale: float = Field(default=1.0, gt=0)
    """With `margin` and `square`: multiplies the gap. A square of 10-point scores wants about 0.3, or it saturates."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that the label of a pair is wrong."""
    centring: float = Field(default=0.01, ge=0)
    """Weight of (r_w + r_l)^2, which keeps rewards near zero and changes no preference."""

    @model_validator(mode="after")
    def _calibrated_on_other_pairs(self) -> Settings:
        if self.calibrate is not None and self.validation is None:
            raise ValueError("`calibrate` needs data to measure on: name a part with `validation`")
        if self.calibrate is not None and self.calibrate in (self.part, self.validation):
            raise ValueError("`calibrate` must be another part than the one trained on and the one measured on")
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.heads != "odin" and self.odin_weight != 1:
            raise ValueError("`odin_weight` is for `heads: odin`")
        if self.gap not in ("margin", "square") and self.gap_scale != 1:
            raise ValueError("`gap_scale` is for `gap: margin` and `gap: square`")
        if self.encoder is not None and self.lora is not None:
            raise ValueError("`lora` is for decoders, an encoder is trained whole; leave one of the two out")
        if self.encoder is not None and self.chat_template is not None:
            raise ValueError("`chat_template` is for decoders, an encoder reads texts; leave one of the two out")
        if self.encoder == "bi" and self.heads == "odin":
            raise ValueError("a bi-encoder has one output; `heads: odin` is for decoders and `encoder: cross`")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.models.heads import keep_output
    from sawyer.pipeline.files import write_json
    from sawyer.pipeline.stages._common import fit, save_trained
    from sawyer.pipeline.stages._reward import calibration_trees, evaluation_of, reader_of, shaped_trees
    from sawyer.train.objectives import odin, reward_model

    context.track(settings.trackers)
    reader = reader_of(context, settings)
    trees, held_out, records = shaped_trees(context, settings, reader)
    fitting = calibration_trees(context, settings, reader)
    shape = {"centring": settings.centring, "label_smoothing": settings.label_smoothing}
    two = settings.heads == "odin"
    objective = odin(weight=settings.odin_weight, **shape) if two else reward_model(**shape)
    result = fit(context, settings, reader.model, trees, objective, held_out)
    figures: dict[str, Any] = {"comparisons": len(trees), **reader.counts(), **result.figures}
    if held_out and context.is_main:
        evaluation = evaluation_of(reader.model, held_out, records, fitting, settings.token_budget, context.seed)
        write_json(context.folder / "evaluation.json", evaluation)
        figures["held_out"] = evaluation
    save_trained(context, reader.trainable, result.weights, reader.form, keep_output if two else None)
    return figures


STAGE = Stage(
    "reward",
    Settings,
    run,
    makes="reward_model",
    help="a Bradley-Terry reward model from comparisons",
    needs=training_needs,
)
