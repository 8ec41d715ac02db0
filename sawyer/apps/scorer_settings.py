"""What `sawyer eval` and `sawyer score` score with, as options say it. No model in here: options are made from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from sawyer.feedback.computed import Computed
from sawyer.feedback.judge_settings import JudgeForm, judge_form
from sawyer.settings import Settings

JUDGE = (
    "form", "template", "template_file", "rubric_file", "read", "samples", "temperature", "tries", "unread_limit"
)  # fmt: skip
"""Settings of a judge's form that are options with `judge_` before them."""


class ScorerSettings(Settings):
    """A source of feedback: one model, several, a rule, or a baseline."""

    model: tuple[str, ...] = ()
    """A folder, hub name or smollm2; with --endpoint a remote name. Several make an --ensemble."""
    scorer: (
        Literal["classifier", "dpo", "dpo-ref-free", "pairwise", "judge", "rule", "random", "length", "shorter"] | None
    ) = None
    """How the model scores; left out, what it is says so. The last four need no model."""
    reference: str | None = None
    """With dpo: the model that the policy was trained from."""
    beta: FiniteFloat = Field(default=1.0, gt=0)
    """With dpo: multiplies the log-ratio. DPO's own, such as 0.1, gives its probabilities; rankings are the same."""
    ref_free: Literal["avg", "sum", "norm"] = "avg"
    """With dpo-ref-free: mean log-prob, their sum, or minus their Euclidean length."""
    rule: Computed | None = None
    """With rule: what of the text counts; verifiable is the gold reward of prompts that carry their constraints,
    arithmetic that of prompts to work something out."""
    words: tuple[str, ...] = ()
    """With bag_of_words: a word to count; give it several times."""
    ensemble: Literal["mean", "min", "median", "mean-std", "majority", "reliability"] | None = None
    """How several models become one score; reliability weighs verdicts on pairs by how often each model is right."""
    k: FiniteFloat = 1.0
    """With --ensemble mean-std: how many standard deviations are taken off."""
    both_orders: bool = False
    """With judge: ask for each pair twice, the answers changed round."""
    judge_tokens: int = Field(default=2048, ge=1)
    """With judge: longest answer."""
    judge_form: Literal["pairwise", "scale", "pointwise", "rubric", "best_of"] | None = None
    """With judge: how it is asked; left out, a pair without a tie, and a rating where there are no pairs."""
    judge_template: str | None = None
    """With --judge-form: another built-in template, such as pairwise-direct."""
    judge_template_file: str | None = None
    """With --judge-form: a template of your own, a YAML file."""
    judge_rubric_file: str | None = None
    """With --judge-form rubric: a YAML file of criteria with weights."""
    judge_read: Literal["text", "tokens", "forced"] = "text"
    """With --judge-form: the verdict that is written, its mean by the tokens' chances, or that with no other word."""
    judge_samples: int = Field(default=1, ge=1)
    """With --judge-form: answers to each question, of which the mean counts."""
    judge_temperature: FiniteFloat = Field(default=0.0, ge=0)
    """With --judge-form: of its answers."""
    judge_tries: int = Field(default=1, ge=1)
    """With --judge-form: how often a question is asked, at most, until its answer holds a verdict."""
    judge_unread_limit: FiniteFloat | None = Field(default=None, ge=0, le=1)
    """With --judge-form: stop where a larger share of answers holds no verdict."""
    max_tokens: int = Field(default=2048, ge=2)
    """Local models: longer prompts and completions lose their beginning; encoders cut the longer of the two."""
    token_budget: int = Field(default=4096, ge=1)
    """Local models: tokens in one forward pass; changes speed and memory only."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Local models: what they compute in."""
    chat_template: str | None = None
    """Local models: template, by name or as Jinja text; the model's own, else plain."""
    force: bool = False
    """With --chat-template: take it although the model was trained with another."""
    seed: int = 0
    """Of random scores, of the judge's coin, and of resampling."""

    def judge(self) -> JudgeForm | None:
        """How the judge is asked; None without a form.

        Raises:
            SawyerError: the template or the rubric is none, or settings contradict each other.
        """
        if self.judge_form is None:
            return None
        own = {name: getattr(self, f"judge_{name}") for name in JUDGE}
        return judge_form(both_orders=self.both_orders, max_tokens=self.judge_tokens, **own)
