"""A judge's verdict as probabilities: what the tokens in its place could have been (G-Eval, Liu et al. 2023).

The judge answers as always; then, where it wrote its verdict, the probabilities of all verdicts are read and brought to
a sum of 1. A local model is run once more up to there, and an option of several tokens has the product of theirs
(`rollout.choices`); it may also be allowed to write nothing but a verdict (`forced`). An endpoint tells the likeliest
tokens in each place (`top_logprobs`, at most 20): what is not among them counts 0, and of the options of several tokens
only those that begin as the written one does are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.judge_verdicts import Find, Verdict
from sawyer.rollout.kept import KeptEngine
from sawyer.rollout.protocol import Completion, Engine, Top

TOPS = 20
"""How many alternatives an endpoint is asked for."""


def check_tells_tokens(engine: Engine) -> None:
    """Raises SawyerError where no probabilities can be had of an engine."""
    from sawyer.rollout.api_engine import ApiEngine

    inner = _inner(engine)
    if isinstance(inner, ApiEngine):
        if not inner.tops:
            raise SawyerError("verdicts are read from tokens only if the endpoint is asked for alternatives (`tops`)")
    elif not _is_local(inner) and not _chooses(inner):
        raise SawyerError(
            f"verdicts cannot be read from the tokens of a {type(inner).__name__}: take the torch engine or an "
            "endpoint, or read the text"
        )


def forced(engine: Engine, options: Sequence[str], opening: str, ending: str) -> Engine:
    """An engine whose answer is a verdict and nothing else: the likeliest, with the chances of all.

    Raises:
        SawyerError: the engine is not the torch engine.
    """
    inner = _inner(engine)
    if not _is_local(inner):
        raise SawyerError(
            f"a verdict can be forced of the torch engine alone, and not of a {type(inner).__name__}; read the text or "
            "the tokens"
        )
    from sawyer.rollout.choices import ChoiceEngine

    choosing = ChoiceEngine(inner, options, opening, ending)  # type: ignore[arg-type]  # `_is_local`
    if isinstance(engine, KeptEngine):
        return engine.around(choosing, [list(options), opening, ending])
    return choosing


def token_reader(
    engine: Engine, find: Find, options: Sequence[str], ending: str
) -> Callable[[Sequence[Prompt], Sequence[Completion]], list[dict[str, float] | None]]:
    """A reader of completions that gives P(option) of each, None where there is no verdict or nothing is known of it.

    Args:
        find: the verdict in an answer.
        options: all that it could be.
        ending: what a verdict ends with, which tells 1 from 10.
    """
    check_tells_tokens(engine)
    inner = _inner(engine)

    def of_model(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[dict[str, float] | None]:
        from sawyer.rollout.choices import choice_probabilities

        spots = [find(completion.text) for completion in completions]
        where = [i for i, spot in enumerate(spots) if spot is not None]
        found: list[dict[str, float] | None] = [None] * len(completions)
        beginnings = [completions[i].text[: spot.start] for i, spot in enumerate(spots) if spot is not None]
        chances = choice_probabilities(inner, [prompts[i] for i in where], beginnings, options, ending)  # type: ignore[arg-type]  # `_is_local`
        for i, own in zip(where, chances, strict=True):
            sound = own is not None and all(map(math.isfinite, own))
            found[i] = dict(zip(options, own, strict=True)) if own is not None and sound else None
        return found

    def of_endpoint(_: Sequence[Prompt], completions: Sequence[Completion]) -> list[dict[str, float] | None]:
        if completions and not any(completion.tops for completion in completions):
            raise SawyerError(
                "the endpoint gives no log-probs of alternatives (top_logprobs), from which verdicts could be read; "
                "read the text, or take another endpoint"
            )
        return [_from_tops(completion, find(completion.text), options) for completion in completions]

    return of_model if _is_local(inner) else of_endpoint


def _from_tops(completion: Completion, verdict: Verdict | None, options: Sequence[str]) -> dict[str, float] | None:
    if verdict is None:
        return None
    written = "".join(token for token, _ in completion.tops)
    start = written.rfind(completion.text[verdict.start :])
    if start < 0:
        return None
    at = 0
    for number, (token, likeliest) in enumerate(completion.tops):
        if at <= start < at + len(token):
            before, rest = token[: start - at], completion.tops[number + 1 :]
            return _shares(before, token, likeliest, rest, options)
        at += len(token)
    return None


def _shares(
    before: str, written: str, likeliest: dict[str, float], rest: Sequence[Top], options: Sequence[str]
) -> dict[str, float] | None:
    """P(option), of the tokens that begin with `before`, which comes before the verdict."""
    mass = dict.fromkeys(options, 0.0)
    for token, logp in likeliest.items():
        text = token.removeprefix(before)
        option = _beginning(text, options) if token.startswith(before) else None
        if option is None:
            continue
        chance = math.exp(logp)
        longer = [other for other in options if other != option and other.startswith(option)]
        if token == written and text == option and longer and rest:  # 1, or the 1 of 10: the next token tells
            following = rest[0][1]
            total = sum(math.exp(logp) for logp in following.values())
            for other in longer if total else ():
                tail = other[len(option) :]
                share = sum(math.exp(logp) for text, logp in following.items() if _beginning(text, [tail])) / total
                mass[other] += chance * share
                chance -= chance * share
        mass[option] += chance
    total = sum(mass.values())
    return {option: share / total for option, share in mass.items()} if total > 0 else None


def _beginning(text: str, options: Sequence[str]) -> str | None:
    """The longest option that a text begins with and does not go on from as a word or number."""
    fitting = [option for option in options if text.startswith(option) and not text[len(option) :][:1].isalnum()]
    return max(fitting, key=len, default=None)


def _inner(engine: Engine) -> object:
    return engine.engine if isinstance(engine, KeptEngine) else engine


def _chooses(inner: object) -> bool:
    from sawyer.rollout.choices import ChoiceEngine

    return isinstance(inner, ChoiceEngine)


def _is_local(inner: object) -> bool:
    from sawyer.rollout.torch_engine import TorchEngine

    return isinstance(inner, TorchEngine)
