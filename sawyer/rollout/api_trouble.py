"""What can go wrong between us and an endpoint: what each error means for the request, the prompt and the whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import openai

from sawyer.errors import reason
from sawyer.rollout.api_pace import retry_after


class Then(Enum):
    """What follows from a trouble."""

    STOP = "nothing else would get through either"
    FAIL = "it lies with this prompt"
    RETRY_OR_STOP = "it may pass; if it does not, nothing gets through"
    RETRY_OR_FAIL = "it may pass; if it does not, this completion is given up"


@dataclass(frozen=True)
class Trouble:
    """A request that brought no completion.

    Attributes:
        what: what happened, to follow the endpoint's URL, or the prompt's number where it lies with the prompt.
        mend: what to do about it.
        retry_after: seconds that the endpoint asks to wait.
    """

    then: Then
    what: str
    mend: str
    retry_after: float | None = None


def unreadable(why: str) -> Trouble:
    return Trouble(Then.RETRY_OR_FAIL, f"the endpoint's reply cannot be read: {why}", "look at the server's log")


def not_text() -> Trouble:
    return Trouble(Then.FAIL, "the prompt holds half of a surrogate pair, which is not text", "mend it")


def filtered() -> Trouble:
    return Trouble(Then.FAIL, "the endpoint's content filter kept the answer back", "leave the prompt out")


def timed_out(seconds: float) -> Trouble:
    return Trouble(
        Then.RETRY_OR_STOP, f"gives no answer within {seconds:g} s", "raise the timeout, or lower max_tokens"
    )


def trouble_of(
    error: openai.OpenAIError, *, model: str, key: str, has_key: bool, seconds: float, hide: Callable[[str], str]
) -> Trouble:
    """What an error of the client means.

    Args:
        key: name of the environment variable with the key.
        has_key: whether it is set.
        seconds: the timeout.
        hide: blots the key out of a text that comes from the endpoint.
    """
    if isinstance(error, openai.APITimeoutError):
        return timed_out(seconds)
    if isinstance(error, openai.APIConnectionError):
        cause = hide(reason(error.__cause__ or error))
        return Trouble(
            Then.RETRY_OR_STOP, f"cannot be reached ({cause})", "check the URL, and that the server is running"
        )
    if not isinstance(error, openai.APIStatusError):
        return unreadable(hide(reason(error)))
    status, said = error.status_code, hide(_message(error))
    words = f"{status}: {said}" if said else str(status)
    if status == 401:
        what = f"refuses the key in {key}" if has_key else "wants a key"
        return Trouble(Then.STOP, f"{what} ({words})", f"put a valid key into the environment variable {key}")
    if status == 403:
        return Trouble(Then.STOP, f"does not let us use {model} ({words})", f"check what the key in {key} may do")
    if status == 402 or error.code == "insufficient_quota":
        return Trouble(Then.STOP, f"says that the account has no credit left ({words})", "top it up")
    if status == 404:
        return Trouble(
            Then.STOP,
            f"knows no model {model}, or is not the base URL of an API ({words})",
            "check the model's name, and that the URL ends as the vendor says, mostly with /v1",
        )
    if status == 400 and error.code == "content_filter":
        return Trouble(Then.FAIL, f"the endpoint's content filter refuses the prompt ({words})", "leave it out")
    if status in (400, 413, 422):
        return Trouble(Then.FAIL, f"the endpoint refuses the request ({words})", "mend the prompt or the options")
    wait = retry_after(error.response.headers)
    if status == 429:
        mend = "ask for fewer requests or tokens per minute, or try again later"
        return Trouble(Then.RETRY_OR_STOP, f"limits how often it may be asked ({words})", mend, wait)
    if status in (408, 409, 425) or status >= 500:
        return Trouble(Then.RETRY_OR_STOP, f"has an error of its own ({words})", "try again later", wait)
    return Trouble(Then.STOP, f"refuses requests ({words})", "check the URL and the options")


def _message(error: openai.APIStatusError) -> str:
    """What the endpoint said, in a line."""
    body: Any = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or ""
    lines = str(body or "").strip().splitlines()
    return lines[0][:200].rstrip(" .:") if lines else ""
