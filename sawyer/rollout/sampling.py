"""How completions are drawn. No torch in here: recipes are checked without it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from sawyer.errors import SawyerError
from sawyer.settings import Settings

TokenId = Annotated[int, Field(ge=0)]
NonEmpty = Annotated[str, Field(min_length=1)]


class Sampling(Settings):
    """How completions are drawn.

    What is on is applied in this order: `logit_bias`, `repetition_penalty`, `frequency_penalty` and
    `presence_penalty`, `no_repeat_ngram_size`, `min_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`.
    That is the order of transformers, and of vLLM but for `min_p`, which vLLM applies before top-k and top-p.

    Completions are drawn at random, unless `temperature` is 0; then they are found by greedy search, by beam search
    (`num_beams`) or by contrastive search (`penalty_alpha`).
    """

    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits before the softmax; 0 is greedy, and top-k, top-p and min-p then change nothing."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most likely tokens; 0 keeps all. In contrastive search: how many candidates are compared."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: keep the smallest set of tokens whose probability reaches p."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep the tokens at least min_p times as likely as the likeliest; 0 keeps all."""
    typical_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the tokens whose surprise is nearest the entropy, until their probability reaches p; 1 keeps all."""

    repetition_penalty: float = Field(default=1.0, gt=0)
    """Divides the logits of tokens seen in prompt or completion where positive, multiplies them where negative."""
    frequency_penalty: FiniteFloat = 0.0
    """Subtracted from a token's logit for each time that the completion has it already."""
    presence_penalty: FiniteFloat = 0.0
    """Subtracted from a token's logit if the completion has it already."""
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    """No run of so many tokens, prompt included, comes twice; 0 allows all."""
    logit_bias: dict[TokenId, FiniteFloat] = Field(default_factory=dict)
    """Added to the logits of these tokens, by token id."""

    max_tokens: int = Field(default=128, ge=1)
    """Longest completion, in tokens, the end token included."""
    min_tokens: int = Field(default=0, ge=0)
    """The end token is forbidden before this many tokens, stop tokens too, and stop strings do not count."""
    stop: tuple[NonEmpty, ...] = ()
    """A completion ends when its text holds one of these; its text is cut before it."""
    stop_token_ids: tuple[TokenId, ...] = ()
    """Tokens that end a completion as the model's end token does; its text is cut before them."""

    num_beams: int = Field(default=1, ge=1)
    """Beam search: how many beams; 1 is greedy."""
    num_beam_groups: int = Field(default=1, ge=1)
    """Diverse beam search: how many groups the beams are split into; a group avoids the tokens of those before it."""
    diversity_penalty: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Subtracted from a token's log-prob for each beam of an earlier group that took the token at the same step."""
    length_penalty: FiniteFloat = 1.0
    """A beam's score is its log-prob divided by its length to this power: above 0 favours long completions."""
    early_stopping: bool | Literal["never"] = False
    """When beam search stops: true, as soon as there are enough complete beams; false, when the best open beam would
    score too low if it ended now; never, when no continuation of it could score enough."""
    penalty_alpha: float = Field(default=0.0, ge=0, le=1)
    """Contrastive search: weight of the penalty on looking like the context, against the model's confidence."""

    full_logps: bool = False
    """Report the log-probs under the unmodified softmax(logits) too, as `full_logps`."""

    @model_validator(mode="after")
    def _consistent(self) -> Sampling:
        if (reason := contradiction(self)) is not None:
            raise ValueError(reason)
        return self


OWN_DISTRIBUTION = {"max_tokens", "stop", "stop_token_ids", "full_logps"}
"""Settings that may be set and still let every token be drawn from the model's own distribution."""


def is_own_distribution(sampling: Sampling) -> bool:
    """Whether every token is drawn from the model's own distribution."""
    return sampling.model_dump(exclude_defaults=True).keys() <= OWN_DISTRIBUTION


def contradiction(sampling: Sampling) -> str | None:
    """The first pair of settings that contradict each other, as a sentence; None if there is none."""
    s = sampling
    filters = {"top_p": s.top_p < 1, "min_p": s.min_p > 0, "typical_p": s.typical_p < 1}
    filter_on = next((name for name, on in filters.items() if on), None)
    search = f"num_beams {s.num_beams}" if s.num_beams > 1 else f"penalty_alpha {s.penalty_alpha}"
    searches = s.num_beams > 1 or s.penalty_alpha > 0
    if s.min_tokens > s.max_tokens:
        return f"min_tokens {s.min_tokens} is more than max_tokens {s.max_tokens}"
    if s.typical_p < 1 and filter_on != "typical_p":
        return f"typical_p and {filter_on} each say which share of the probability to keep: use one of them"
    if s.num_beams > 1 and s.penalty_alpha > 0:
        return f"num_beams {s.num_beams} is beam search and penalty_alpha {s.penalty_alpha} is contrastive search"
    if searches and s.temperature > 0:
        return f"{search} searches and does not sample: it needs temperature 0, not {s.temperature:g}"
    if searches and filter_on is not None:
        return f"{search} searches and does not sample: leave out {filter_on}"
    if s.num_beams > 1 and s.top_k > 0:
        return f"{search} searches and does not sample: leave out top_k"
    if s.penalty_alpha > 0 and s.top_k < 2:
        return f"{search} is contrastive search, which compares candidates: it needs top_k of at least 2"
    if s.temperature == 0 and s.typical_p < 1:
        return f"temperature 0 takes the likeliest token, which typical_p {s.typical_p} may drop: use one of them"
    if s.num_beams % s.num_beam_groups:
        return f"num_beams {s.num_beams} cannot be split into {s.num_beam_groups} equal groups (num_beam_groups)"
    if (s.num_beam_groups > 1) != (s.diversity_penalty > 0):
        return (
            f"num_beam_groups {s.num_beam_groups} and diversity_penalty {s.diversity_penalty:g} contradict each other: "
            "diverse beam search needs several groups and a penalty above 0"
        )
    if s.num_beams == 1 and s.length_penalty != 1:
        return f"length_penalty {s.length_penalty:g} ranks beams: it needs num_beams of at least 2"
    if s.num_beams == 1 and s.early_stopping:
        return "early_stopping says when beam search stops: it needs num_beams of at least 2"
    return None


def check_sampling(sampling: Sampling, n: int = 1) -> None:
    """Refuse settings that contradict each other, for settings that were changed without validation.

    Args:
        n: completions of each prompt.

    Raises:
        SawyerError: says which, or that n is not positive.
    """
    if n < 1:
        raise SawyerError(f"n is {n}: ask for at least one completion per prompt")
    if (reason := contradiction(sampling)) is not None:
        raise SawyerError(reason)


def check_token_ids(sampling: Sampling, vocabulary: int) -> None:
    """Refuse token ids that a model does not have.

    Args:
        vocabulary: how many tokens the model has.

    Raises:
        SawyerError: says which setting names which token.
    """
    for name, ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
        if (largest := max(ids, default=0)) >= vocabulary:
            raise SawyerError(f"{name} names the token {largest}, but the model's vocabulary has {vocabulary}")
