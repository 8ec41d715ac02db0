"""What `--feedback` names: sources of feedback, what they are to the models compared, and how they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sawyer.apps.compared_models import REMOTE, Compared
from sawyer.apps.scorer_settings import ScorerSettings
from sawyer.apps.scorers import Scorer, make_scorer
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.computed import Computed, computed_reward
from sawyer.models.locate import is_reward_model, locate
from sawyer.pipeline.artifact import finished_artifact
from sawyer.pipeline.lineage import rewarded_by
from sawyer.rollout.api_settings import ApiSettings

GOLD = ("verifiable", "arithmetic")
"""Rules that compute what is true of an answer; the others measure something of its text."""
RULES = get_args(Computed)
KINDS = ("judge", "rating", "pairwise", "dpo")
"""What may stand before a colon: how a language model is to judge."""
Role = Literal["gold", "rule", "reward model", "preference model", "judge", "rating", "random"]


@dataclass(frozen=True)
class NamedFeedback:
    """A source of feedback.

    Attributes:
        name: what it is called; no other of the comparison is called so.
        given: what was typed.
        role: what it is.
        scorer: what loads and asks it.
        prefers: whether it judges pairs of answers; else each answer by itself.
        trained: the models that were trained on it: to them it is the proxy and no measure of how good they are.
    """

    name: str
    given: str
    role: Role
    scorer: Scorer = field(repr=False)
    prefers: bool = False
    trained: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name, marked where a model was trained on it."""
        return f"{self.name} (proxy)" if self.trained else self.name

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "given": self.given,
            "role": self.role,
            "prefers": self.prefers,
            "trained": list(self.trained),
            "protocol": self.scorer.protocol,
        }


@dataclass(frozen=True)
class Asking:
    """How feedback is asked, whichever it is."""

    precision: Literal["fp32", "bf16"] = "fp32"
    token_budget: int = 4096
    judge_tokens: int = 2048
    seed: int = 0
    api: ApiSettings = field(default_factory=ApiSettings)
    """Of a judge behind an endpoint, but for the endpoint itself."""
    cache: Path | None = None


def find_feedback(
    given: Sequence[str], models: Sequence[Compared], prompts: Sequence[Prompt], asking: Asking
) -> list[NamedFeedback]:
    """What was named, or the gold reward where nothing was and the prompts carry their constraints. Reads no weights.

    Raises:
        SawyerError: nothing was named and there is no gold reward; one is not known, is no source of feedback, or
            cannot judge these prompts.
    """
    if not given:
        if not all("constraints" in prompt.info for prompt in prompts):
            raise SawyerError(
                "say what the answers are judged by: --feedback, with a rule, the folder of a reward model, or "
                "judge:MODEL (the prompts carry no constraints, so there is no gold reward)"
            )
        given = ("verifiable",)
    found: list[NamedFeedback] = []
    for one in given:
        name, role, scorer = _find(one, asking)
        number, unique, taken = 1, name, {other.name for other in found}
        while unique in taken:
            number += 1
            unique = f"{name} ({number})"
        subject = _subject(one)
        trained = tuple(model.name for model in models if any(rewarded_by(x, subject) for x in model.lineages()))
        found.append(NamedFeedback(unique, one, role, scorer, role in ("judge", "preference model"), trained))
    for feedback in found:
        if feedback.role == "gold":
            computed_reward(cast(Computed, feedback.given)).score(prompts, [[""]] * len(prompts))
    return found


def _find(given: str, asking: Asking) -> tuple[str, Role, Scorer]:
    kind, colon, model = given.partition(":")
    if given in RULES:
        role: Role = "gold" if given in GOLD else "rule"
        return ("gold" if role == "gold" else given), role, make_scorer(_rule(given))
    if kind == "bag_of_words" and model:
        return kind, "rule", make_scorer(_rule(kind, words=tuple(model.split(","))))
    if given == "random":
        return given, "random", make_scorer(ScorerSettings(scorer="random", seed=asking.seed))
    if colon and kind in KINDS:
        if not model:
            raise SawyerError(f"--feedback {given} names no model; write {kind}:MODEL")
        return _by_kind(kind, model, asking)
    artifact = finished_artifact(Path(given)) if Path(given).is_dir() else None
    if artifact is not None and artifact.kind == "preference_model":
        return _by_kind("pairwise", given, asking)
    if not Path(given).exists() and "/" not in given and given not in ("smollm2",):
        rules = ", ".join((*RULES, "random"))
        raise SawyerError(
            f"--feedback {given} is no rule and no folder; rules are {rules}; a model is its folder or hub name, or "
            f"{', '.join(f'{kind}:MODEL' for kind in KINDS)}"
        )
    if not is_reward_model(locate(given)):
        raise SawyerError(
            f"--feedback {given} is a language model and no reward model: say how it is to judge, judge:{given} (which "
            f"of two answers is better), rating:{given} (from 1 to 10), pairwise:{given} (a preference model), or "
            f"dpo:{given},REFERENCE (its implicit reward)"
        )
    return Path(given).name, "reward model", make_scorer(_local(asking, model=(given,), scorer="classifier"))


def _by_kind(kind: str, model: str, asking: Asking) -> tuple[str, Role, Scorer]:
    if kind == "pairwise":
        settings = _local(asking, model=(model,), scorer="pairwise")
        return Path(model).name, "preference model", make_scorer(settings)
    if kind == "dpo":
        policy, comma, reference = model.partition(",")
        if not comma:
            raise SawyerError(f"--feedback dpo:{model} needs the policy's reference; write dpo:POLICY,REFERENCE")
        settings = _local(asking, model=(policy,), scorer="dpo", reference=reference)
        return f"implicit {Path(policy).name}", "reward model", make_scorer(settings)
    role: Role = "judge" if kind == "judge" else "rating"
    values: dict[str, Any] = {"scorer": "judge", "judge_tokens": asking.judge_tokens, "seed": asking.seed}
    values["both_orders"] = role == "judge"
    if REMOTE in model:
        name, _, address = model.partition("@")
        api = asking.api.model_copy(update={"endpoint": address})
        scorer = make_scorer(ScorerSettings(model=(name,), **values), api, asking.cache)
        return f"{role} {name}", role, scorer
    scorer = make_scorer(ScorerSettings(model=(model,), precision=asking.precision, **values))
    return f"{role} {Path(model).name}", role, scorer


def _rule(name: str, **words: Any) -> ScorerSettings:
    return ScorerSettings(scorer="rule", rule=cast(Computed, name), **words)


def _local(asking: Asking, **values: Any) -> ScorerSettings:
    return ScorerSettings(precision=asking.precision, token_budget=asking.token_budget, **values)


def _subject(given: str) -> str:
    """The rule or model that a model may have been trained on."""
    kind, colon, model = given.partition(":")
    return model if colon and kind in KINDS else given
