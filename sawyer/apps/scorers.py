"""From the options of `sawyer eval` and `sawyer score` to sources of feedback, and from those to numbers of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.apps.scorer_settings import JUDGE, ScorerSettings
from sawyer.data.rewardbench import TIES, Trial
from sawyer.errors import SawyerError
from sawyer.feedback.ensemble import PREFERENCE_RULES, RULES
from sawyer.feedback.panel import FEWEST
from sawyer.feedback.protocol import Feedback, prefer
from sawyer.pipeline.files import path_sha256
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Engine

BASELINES = ("random", "length", "shorter")
NO_MODEL = ("rule", *BASELINES)
"""Scorers that are no model."""
PREFERS = ("pairwise", "judge")
"""Scorers whose own judgement is of pairs; the others score each completion by itself."""
LANGUAGE_MODELS = ("dpo", "dpo-ref-free", "pairwise", "judge")
JUDGE_BATCH = 64
CHUNK = 64
"""Trials scored between two looks at the clock: what a kill loses. Enough of them to fill packed rows."""


@dataclass(frozen=True)
class Member:
    """One source of feedback, loaded when its turn comes: an ensemble holds one model in memory at a time."""

    name: str
    load: Callable[[Path], Feedback]
    """Takes the folder for what an endpoint answers."""
    depends_on: Any
    """All that its numbers depend on, as JSON."""


@dataclass(frozen=True)
class Scorer:
    """What the options ask for."""

    kind: str
    name: str
    members: tuple[Member, ...]
    protocol: dict[str, Any]
    """What to say beside every number: how it came about."""
    chunk: int = CHUNK

    @property
    def prefers(self) -> bool:
        return self.kind in PREFERS


def make_scorer(settings: ScorerSettings, api: ApiSettings | None = None, cache: Path | None = None) -> Scorer:
    """The scorer that the options describe; no weights are read.

    Raises:
        SawyerError: the options contradict each other or the model, or there is no such model.
    """
    kind = _kind(settings, api)
    _check(settings, kind, api, cache)
    if kind in NO_MODEL:
        member, asked = _rule(settings) if kind == "rule" else (_baseline(kind, settings.seed), _seed(settings, kind))
        return Scorer(kind, member.name, (member,), {"scorer": kind, **asked}, chunk=4096)
    protocol: dict[str, Any] = {"scorer": kind, "models": list(settings.model), **_seed(settings, kind)}
    if settings.ensemble is not None:
        protocol["ensemble"] = settings.ensemble
        protocol |= {"k": settings.k} if settings.ensemble == "mean-std" else {}
    if kind == "dpo":
        protocol |= {"reference": settings.reference, "beta": settings.beta}
    if kind == "dpo-ref-free":
        protocol["ref_free"] = settings.ref_free
    if kind == "judge":
        form = settings.judge()
        protocol |= {"both_orders": settings.both_orders, "judge_tokens": settings.judge_tokens}
        protocol |= {} if form is None else {"judge": form.described()}
    if api is not None:
        protocol["endpoint"] = api.endpoint
        members = tuple(_remote_judge(name, settings, api, cache, protocol) for name in settings.model)
    else:
        protocol |= {"precision": settings.precision, **_reading(settings, kind)}
        members = tuple(_local(name, kind, settings, protocol) for name in settings.model)
    names = [name if api is not None else Path(name).name for name in settings.model]
    name = names[0] if settings.ensemble is None else f"{settings.ensemble}({', '.join(names)})"
    return Scorer(kind, name, members, protocol, chunk=CHUNK if api is None else 16 * api.concurrency)


def measure(feedback: Feedback, trials: Sequence[Trial], version: int) -> list[dict[str, Any]]:
    """The numbers of each trial: `p` where the feedback's own judgement is of pairs (and `games`, what a judge said),
    else `scores` of its completions, the chosen ones first.

    Raises:
        SawyerError: as the feedback does.
    """
    from sawyer.feedback.judge import Grade, Judge
    from sawyer.feedback.judges import drawn

    prompts = [trial.prompt for trial in trials]
    if version == 1 and hasattr(feedback, "prefer"):
        pairs = [(trial.chosen[0], trial.rejected[0]) for trial in trials]
        judged = getattr(feedback, "verdicts", None)
        if judged is None:
            return [{"p": p} for p in prefer(feedback, prompts, pairs)]
        return [{"p": drawn(games), "games": games} for games in judged(prompts, pairs)]
    if isinstance(feedback, Judge):
        # a judge that rewards depth would tear apart the answers that Ties holds to be equally right
        grades: list[Grade] = ["correctness" if trial.subset == TIES else "quality" for trial in trials]
        scores = feedback.rate(prompts, [trial.completions for trial in trials], grades)
    else:
        scores = feedback.score(prompts, [trial.completions for trial in trials])
    return [{"scores": own} for own in scores]


def check_pairs(scorer: Scorer, pairs: int | None) -> None:
    """Refuse an ensemble by reliability where there are not enough verdicts on pairs to measure it on.

    Args:
        pairs: how many there will be; None where completions are scored and not compared.

    Raises:
        SawyerError: see above.
    """
    if scorer.protocol.get("ensemble") != "reliability":
        return
    if pairs is None:
        raise SawyerError(
            f"--ensemble reliability is measured on verdicts on pairs, and here are scores; choose {', '.join(RULES)}"
        )
    if pairs < FEWEST:
        raise SawyerError(f"--ensemble reliability is measured on at least {FEWEST} pairs, and there are {pairs}")


# --- which scorer -----------------------------------------------------------------------------------------------------


def _kind(settings: ScorerSettings, api: ApiSettings | None) -> str:
    if settings.scorer is not None:
        return settings.scorer
    if not settings.model:
        raise SawyerError(f"give --model, or a scorer that needs none: --scorer {'|'.join(NO_MODEL)}")
    if api is not None:
        return "judge"
    if settings.reference is not None:
        return "dpo"
    if _is_reward_model(settings.model[0]):
        return "classifier"
    raise SawyerError(
        f"{settings.model[0]} is a language model and not a reward model: say how it is to score, with --reference "
        f"MODEL or --scorer {'|'.join(LANGUAGE_MODELS[1:])}"
    )


def _is_reward_model(name: str) -> bool:
    from sawyer.models.locate import is_reward_model, locate

    return is_reward_model(locate(name))


def _check(settings: ScorerSettings, kind: str, api: ApiSettings | None, cache: Path | None) -> None:
    """Refuse what contradicts itself, before anything is loaded."""
    given = settings.model_fields_set
    only: dict[str, tuple[bool, str]] = {
        "reference": (kind == "dpo", "--scorer dpo"),
        "beta": (kind == "dpo", "--scorer dpo"),
        "ref_free": (kind == "dpo-ref-free", "--scorer dpo-ref-free"),
        "both_orders": (kind == "judge", "--scorer judge"),
        "judge_tokens": (kind == "judge", "--scorer judge"),
        "judge_form": (kind == "judge", "--scorer judge"),
        **{f"judge_{name}": (settings.judge_form is not None, "--judge-form") for name in JUDGE[1:]},
        "rule": (kind == "rule", "--scorer rule"),
        "words": (settings.rule == "bag_of_words", "--rule bag_of_words"),
        "k": (settings.ensemble == "mean-std", "--ensemble mean-std"),
        "max_tokens": (api is None and kind not in (*NO_MODEL, "judge"), "local models that read completions"),
        "token_budget": (api is None and kind not in (*NO_MODEL, "judge"), "local models that read completions"),
        "precision": (api is None and kind not in NO_MODEL, "local models"),
        "chat_template": (api is None and kind not in NO_MODEL, "local models"),
        "force": (settings.chat_template is not None, "--chat-template"),
    }
    for name, (fits, where) in only.items():
        if name in given and not fits:
            raise SawyerError(f"--{name.replace('_', '-')} is for {where}; drop it")
    if kind in NO_MODEL and settings.model:
        raise SawyerError(f"--scorer {kind} needs no model; drop --model")
    if kind not in NO_MODEL and not settings.model:
        raise SawyerError(f"--scorer {kind} needs a model; give --model")
    if kind == "rule" and settings.rule is None:
        raise SawyerError("--scorer rule needs to know which; give --rule")
    if not all(name.strip() for name in settings.model):
        raise SawyerError("--model is empty; name a model")
    if kind == "dpo" and settings.reference is None:
        raise SawyerError("--scorer dpo needs --reference, the model that the policy was trained from")
    if api is not None and kind != "judge":
        raise SawyerError(f"--endpoint names a remote model, which can only be a judge, not --scorer {kind}")
    if cache is not None and api is None:
        raise SawyerError("--cache keeps the answers of remote models; give --endpoint too, or drop it")
    if len(settings.model) > 1 and settings.ensemble is None:
        raise SawyerError(f"{len(settings.model)} models were given; say with --ensemble how they become one")
    if settings.ensemble is not None:
        if len(settings.model) < 2:
            raise SawyerError("--ensemble needs at least two models; give --model several times")
        if kind in PREFERS and settings.ensemble not in PREFERENCE_RULES:
            raise SawyerError(
                f"models that compare pairs are combined by {', '.join(PREFERENCE_RULES)}, not by {settings.ensemble}"
            )
        if kind not in PREFERS and settings.ensemble not in RULES:
            raise SawyerError(f"models that score are combined by {', '.join(RULES)}, not by {settings.ensemble}")
    if kind == "classifier":
        for name in settings.model:
            if not _is_reward_model(name):
                raise SawyerError(
                    f"{name} is a language model without a head that scores; give a reward model, or --scorer "
                    f"{'|'.join(LANGUAGE_MODELS)}"
                )


# --- its members ------------------------------------------------------------------------------------------------------


def _reading(settings: ScorerSettings, kind: str) -> dict[str, Any]:
    """How texts become tokens, for the record: by which template, and what is cut of those that are too long.

    Raises:
        SawyerError: a model was trained with another template than is asked for, or reads without any.
    """
    from sawyer.feedback.template import check_reading, scoring_format
    from sawyer.models.load import load_tokenizer

    check = check_reading if kind == "classifier" else scoring_format
    encoders = [check(name, settings.chat_template, force=settings.force) is None for name in settings.model]
    decoders = [name for name, encoder in zip(settings.model, encoders, strict=True) if not encoder]
    own = [getattr(load_tokenizer(name), "chat_template", None) is not None for name in decoders]
    mixed = "the models' own, plain where there is none"
    template = "the model's own" if all(own) else "plain" if not any(own) else mixed
    reading: dict[str, Any] = {"chat_template": settings.chat_template or (template if decoders else None)}
    if kind != "judge":
        cut = "left" if not any(encoders) else "longest first" if all(encoders) else "left, of encoders longest first"
        reading |= {"max_tokens": settings.max_tokens, "truncation": cut}
    return reading


def _seed(settings: ScorerSettings, kind: str) -> dict[str, Any]:
    return {"seed": settings.seed} if kind in ("random", "judge") else {}


def _rule(settings: ScorerSettings) -> tuple[Member, dict[str, Any]]:
    """A rule of the text as a member, and what to say of it."""
    from sawyer.feedback.computed import computed_reward

    assert settings.rule is not None, "refused by _check"
    name = settings.rule
    feedback = computed_reward(name, settings.words)
    asked = {"rule": name, **({"words": list(settings.words)} if settings.words else {})}
    return Member(name, lambda _: feedback, asked), asked


def _baseline(kind: str, seed: int) -> Member:
    from sawyer.feedback.baselines import LengthScore, RandomScore

    feedback: Feedback = RandomScore(seed) if kind == "random" else LengthScore(shorter=kind == "shorter")
    return Member(kind, lambda _: feedback, [kind, seed])


def _remote_judge(
    name: str, settings: ScorerSettings, api: ApiSettings, cache: Path | None, protocol: dict[str, Any]
) -> Member:
    from sawyer.feedback.token_verdicts import TOPS
    from sawyer.rollout.api_engine import ApiEngine

    tops = TOPS if settings.judge_read == "tokens" else 0

    def load(folder: Path) -> Feedback:
        return _judge(ApiEngine(name, api, cache=cache or folder / "answers", tops=tops), settings)

    sent = api.model_dump(include={"vendor_options", "send_seed", "length_name"})
    return Member(name, load, [name, protocol, sent])


def _local(name: str, kind: str, settings: ScorerSettings, protocol: dict[str, Any]) -> Member:
    from sawyer.models.locate import resolve

    places = [Path(resolve(one)) for one in (name, settings.reference) if one is not None]
    weights = [path_sha256(place) if place.exists() else str(place) for place in places]
    return Member(Path(name).name, lambda _: _load(name, kind, settings), [weights, protocol])


def _load(name: str, kind: str, settings: ScorerSettings) -> Feedback:
    """A local model as feedback, on the fastest device there is."""
    import torch

    from sawyer.feedback.implicit import ImplicitReward
    from sawyer.feedback.multi_objective import open_reward_model
    from sawyer.feedback.pairwise import PairwiseModel

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if kind == "judge":
        return _local_judge(name, settings, device)
    how: dict[str, Any] = {
        **settings.model_dump(include={"precision", "token_budget", "max_tokens", "chat_template", "force"}),
        "device": device,
    }
    if kind == "classifier":
        return open_reward_model(name, **how)
    if kind == "pairwise":
        return PairwiseModel(name, **how)
    return ImplicitReward(name, settings.reference, free=settings.ref_free, beta=settings.beta, **how)


def _local_judge(name: str, settings: ScorerSettings, device: Any) -> Feedback:
    from sawyer.feedback.template import scoring_format
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES
    from sawyer.rollout.torch_engine import TorchEngine

    chat = scoring_format(name, settings.chat_template, force=settings.force)
    model: Any = load_policy(name, dtype=DTYPES[settings.precision])
    return _judge(TorchEngine(model.to(device), chat, take=True, max_batch=JUDGE_BATCH), settings)


def _judge(engine: Engine, settings: ScorerSettings) -> Feedback:
    from sawyer.feedback.judge import Judge
    from sawyer.feedback.judges import make_judge

    form = settings.judge()
    if form is not None:
        return make_judge(engine, form, settings.seed)
    return Judge(engine, both_orders=settings.both_orders, max_tokens=settings.judge_tokens, seed=settings.seed)
