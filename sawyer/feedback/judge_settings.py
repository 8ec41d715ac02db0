"""How a judge is asked, as settings. No model in here: recipes and options are checked without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from sawyer.errors import SawyerError
from sawyer.feedback.asking import check_asking
from sawyer.feedback.judge_template import JudgeTemplate, load_template
from sawyer.feedback.judge_verdicts import FORCED
from sawyer.feedback.rubric import Rubric, load_rubric
from sawyer.settings import InputFile, Settings


class JudgeForm(Settings):
    """What a judge is asked, and how its answers are read."""

    form: Literal["pairwise", "scale", "pointwise", "rubric", "best_of"] = "pairwise"
    """pairwise: which of two is better, or a tie; scale: by how much, 1 (the first) to 9; pointwise: a grade from 1 to
    10; rubric: such a grade for each criterion; best_of: which of several is best."""
    template: str | None = None
    """Another built-in template than the form's own: pairwise-direct or pointwise-direct, which ask for no reasons."""
    template_file: Annotated[str | None, InputFile(folder=False)] = None
    """Or a template of your own, a YAML file."""
    rubric_file: Annotated[str | None, InputFile(folder=False)] = None
    """Form rubric: a YAML file of criteria with weights; the built-in ones when left out."""
    read: Literal["text", "tokens", "forced"] = "text"
    """text: the verdict that the judge writes; tokens: its mean by the probabilities of the tokens there; forced: that
    mean where a local model may write nothing but a verdict."""
    both_orders: bool = False
    """Ask each question about several answers twice, their order reversed, and take the mean."""
    samples: int = Field(default=1, ge=1)
    """Answers to each question, of which the mean counts; several need a temperature."""
    temperature: FiniteFloat = Field(default=0.0, ge=0)
    """Of the judge's answers; 0 is greedy."""
    tries: int = Field(default=1, ge=1)
    """How often a question is asked, at most, until its answer holds a verdict; again with a temperature."""
    unread_limit: FiniteFloat | None = Field(default=None, ge=0, le=1)
    """Stop where a larger share of answers holds no verdict; without it they are counted."""
    max_tokens: int = Field(default=512, ge=1)
    """The judge's longest answer."""

    @model_validator(mode="after")
    def _fitting(self) -> JudgeForm:
        try:
            check_asking(
                temperature=self.temperature,
                samples=self.samples,
                retries=self.tries - 1,
                unread_limit=self.unread_limit,
                who="judge",
            )
            self.question()
            self.criteria()
        except SawyerError as error:
            raise ValueError(str(error)) from None
        if self.template is not None and self.template_file is not None:
            raise ValueError("give `template`, a built-in one, or `template_file`, not both")
        if self.rubric_file is not None and self.form != "rubric":
            raise ValueError(f"`rubric_file` is for `form: rubric`, not for {self.form}")
        if self.read == "tokens" and self.form == "rubric":
            raise ValueError("`read: tokens` reads one verdict, and a rubric has several; take `read: text`")
        if self.read == "forced":
            if self.form not in FORCED:
                raise ValueError(f"`read: forced` is for {', '.join(FORCED)}, not for {self.form}")
            if (self.samples, self.temperature, self.tries) != (1, 0.0, 1):
                raise ValueError("`read: forced` draws nothing: leave `samples`, `temperature` and `tries` as they are")
        return self

    def question(self) -> JudgeTemplate:
        """The template that is asked with."""
        if self.template_file is not None:
            return load_template(Path(self.template_file), self.form)
        return load_template(self.template or self.form, self.form)

    def criteria(self) -> Rubric:
        """The criteria of form `rubric`."""
        return load_rubric(None if self.rubric_file is None else Path(self.rubric_file))

    def described(self) -> dict[str, Any]:
        """All that a verdict depends on besides the model, for the record."""
        asked = {name: getattr(self, name) for name in _ASKED}
        criteria = {"criteria": self.criteria().described()} if self.form == "rubric" else {}
        return {**asked, **self.question().described(), **criteria}


def judge_form(**settings: Any) -> JudgeForm:
    """The settings.

    Raises:
        SawyerError: one is out of its range, a file is no template or rubric, or they contradict each other.
    """
    try:
        return JudgeForm(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise SawyerError(f"the judge's `{name}`: {said}" if name else said) from None


_ASKED = ("form", "read", "both_orders", "samples", "temperature", "tries", "max_tokens")
