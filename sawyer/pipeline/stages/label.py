"""Stage `label`: which completions are better, by a simulated annotator, by a judge aspect by aspect, or by a file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sawyer.methods.labelling import Form
from sawyer.pipeline.stage import Context, Ref, Stage
from sawyer.pipeline.stages._gold import GoldSettings
from sawyer.pipeline.stages._raters import RaterSettings
from sawyer.settings import InputFile

Aspect = Literal["helpfulness", "honesty", "truthfulness", "instruction_following"]
Weight = Annotated[float, Field(gt=0)]
_EVEN: dict[Aspect, Weight] = {
    "helpfulness": 1.0,
    "honesty": 1.0,
    "truthfulness": 1.0,
    "instruction_following": 1.0,
}
_OF: dict[str, tuple[str, ...]] = {
    "annotator": ("temperature", "error_rate", "win_rates"),
    "judge": ("judge", "aspects"),
    "file": ("labels", "raters"),
}


class Settings(GoldSettings):
    """The gold reward, where there is one, is what labels of a judge or a file are compared with."""

    data: Annotated[str | list[str], Ref("completions")]
    """The completions to compare. Of several stages, those of the same prompt are compared with each other."""
    by: Literal["annotator", "judge", "file"] = "annotator"
    """Who labels: a simulated annotator with known noise, a language model, or what stands in files."""
    form: Form = "pairs"
    """`pairs` compares two completions of a prompt at a time, `rankings` orders all at once, `extremes` does the same
    and keeps the best and the worst, `best_random` the best and any other at random."""
    pairs: int = Field(default=1, ge=1)
    """With `pairs`: how many are drawn of each prompt's completions, without repetition; equal texts are no pair."""
    min_margin: float = Field(default=0.0, ge=0)
    """Scores of a judge or a file that differ by no more than this make no pair; 0 leaves out equal ones."""
    temperature: float = Field(default=0.1, gt=0)
    """Noise of the annotator, in units of the gold reward: P(a over b) = sigmoid((gold_a - gold_b) / temperature)."""
    error_rate: float = Field(default=0.0, ge=0, le=0.5)
    """With `pairs`: share of the annotator's labels that are flipped on top of that."""
    win_rates: bool = False
    """Write as `scores` which share of the compared completions each one wins against by the annotator's labels, itself
    counted as half: of two 0.75 and 0.25, of the best and worst of four 0.875 and 0.125. For losses that need scores
    (`sppo`, `dno`, `infonca`), and nothing that is not in the labels."""
    judge: RaterSettings | None = None
    """With `by: judge`: the model that rates each completion, and how it is asked."""
    aspects: dict[Aspect, Weight] = Field(default=_EVEN, min_length=1)
    """What the judge rates from 1 to 5, a question each, and how much it counts in the score."""
    labels: Annotated[str | list[str] | None, InputFile(folder=False)] = None
    """With `by: file`: files (.csv, .jsonl, .json, .parquet) of a row for each completion, named by its `id` or by its
    `prompt` and its text in column `a`."""
    raters: list[str] = Field(default_factory=list)
    """With `by: file`: the columns whose mean is the score; all but `id`, `prompt` and what describes the completion
    when left out."""

    @property
    def sources(self) -> list[str]:
        """The stages whose completions are compared."""
        return [self.data] if isinstance(self.data, str) else self.data

    @model_validator(mode="after")
    def _pairs_only(self) -> Settings:
        if self.form != "pairs" and (self.error_rate > 0 or self.pairs != 1):
            raise ValueError("`pairs` and `error_rate` are for `form: pairs`; another form orders all completions")
        return self

    @model_validator(mode="after")
    def _what_the_labeller_takes(self) -> Settings:
        fields = Settings.model_fields
        for who, names in _OF.items():
            idle = [
                name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)
            ]
            if idle and who != self.by:
                raise ValueError(f"`{idle[0]}` is for `by: {who}`, and the labels are by {self.by}: leave it out")
        if self.by == "judge" and self.judge is None:
            raise ValueError("`by: judge` needs `judge`: a `model` of the recipe, or a `remote` one")
        if self.by == "file" and not self.labels:
            raise ValueError("`by: file` needs `labels`: the file, or a list of files")
        if self.by == "annotator" and (self.has_gold or self.min_margin):
            raise ValueError("the annotator labels by the gold reward of the prompts: leave gold and `min_margin` out")
        return self

    @model_validator(mode="after")
    def _each_stage_once(self) -> Settings:
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError("`data` names no stage, or one twice; give each stage of completions once")
        return self


def run(settings: Settings, context: Context) -> dict[str, Any]:
    from sawyer.pipeline.stages._label import label

    return label(settings, context) if context.is_main else {}


STAGE = Stage("label", Settings, run, makes="data", help="which completions are better: by an annotator, judge or file")
