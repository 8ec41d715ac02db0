"""What goes over the wire: the body of a chat-completions request, and what can be read off the reply.

Pure functions; the protocol is OpenAI's (https://platform.openai.com/docs/api-reference/chat/create), the extra fields
are those of vLLM (https://docs.vllm.ai, "Extra parameters" of the chat API).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.protocol import Top
from sawyer.rollout.sampling import Sampling

_ALWAYS = ("temperature", "top_p")  # sent even at our defaults: endpoints have defaults of their own
_WHERE_CHANGED = ("presence_penalty", "frequency_penalty", "logit_bias", "stop")
_VENDOR: dict[str, Callable[[Any], Any]] = {
    "top_k": lambda k: k or -1,  # "all" is 0 here and -1 there
    "min_p": lambda p: p,
    "repetition_penalty": lambda penalty: penalty,
    "min_tokens": lambda count: count,
    "stop_token_ids": lambda ids: ids,
}
LAST = 64
"""Of so many tokens at the end of an answer the alternatives are kept."""
_CUT = ("length", "max_tokens")
_FILTERED = "content_filter"


class Unreadable(Exception):
    """A reply that is not a chat completion; says in which way."""


class Filtered(Exception):
    """The endpoint's content filter kept the answer back."""


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        logps: as the endpoint gave them, empty where it gave none.
        tops: each of the last tokens with its likeliest alternatives, empty where the endpoint gave none.
        tokens_in, tokens_out: what the endpoint counted; None where it does not say.
    """

    text: str
    finished: bool
    logps: tuple[float, ...] = ()
    tokens_in: int | None = None
    tokens_out: int | None = None
    tops: tuple[Top, ...] = ()

    def row(self) -> dict[str, Any]:
        tops = {"tops": [list(top) for top in self.tops]} if self.tops else {}
        return {**self.__dict__, "logps": list(self.logps), **tops}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Reply:
        tops = tuple((token, dict(likeliest)) for token, likeliest in row.get("tops", ()))
        return cls(**{**row, "logps": tuple(row["logps"]), "tops": tops})


def sampling_fields(sampling: Sampling, settings: ApiSettings) -> dict[str, Any]:
    """The part of a request that says how to sample.

    With `vendor_options` every one of them that `Sampling` has is sent, whatever its value, because vLLM otherwise
    takes defaults from the model's `generation_config.json`.

    Raises:
        SawyerError: a setting differs from its default and cannot be expressed.
    """
    fields: dict[str, Any] = {}
    for name, field in type(sampling).model_fields.items():
        value = getattr(sampling, name)
        changed = value != field.get_default(call_default_factory=True)
        if name == "max_tokens":
            fields[settings.length_name] = value
        elif name in _ALWAYS or (name in _WHERE_CHANGED and changed):
            fields[name] = _json(value)
        elif name in _VENDOR and settings.vendor_options:
            fields[name] = _json(_VENDOR[name](value))
        elif changed and name in _VENDOR:
            raise SawyerError(
                f"{name} is not part of the chat-completions API; leave it out, or send it as a vendor option if the "
                "endpoint understands it as vLLM does (vendor_options, --vendor-options)"
            )
        elif changed:
            raise SawyerError(f"{name} cannot be asked of a remote endpoint; leave it out, or use a local model")
    return fields


def _json(value: Any) -> Any:
    """A setting as JSON has it, so that a question is equal to itself when it is read from the cache."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def request_body(
    model: str,
    prompt: Prompt,
    sampling_part: Mapping[str, Any],
    settings: ApiSettings,
    seed: int,
    sample: int,
    tops: int = 0,
) -> dict[str, Any]:
    """The whole request for one completion; `sampling_part` comes from `sampling_fields`, `tops` is how many
    alternatives are asked for."""
    body: dict[str, Any] = {"model": model, "messages": [dict(turn) for turn in prompt.prompt], **sampling_part}
    if settings.send_seed:
        body["seed"] = request_seed(seed, sample)
    if settings.logprobs or tops:
        body["logprobs"] = True
    if tops:
        body["top_logprobs"] = tops
    return body


def request_seed(seed: int, sample: int) -> int:
    """The seed sent for a prompt's k-th sample, in [0, 2^31): equal ones would give k equal answers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=4).digest(), "little") >> 1


def estimated_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that a request may come to: a token for four bytes of text, and the longest answer."""
    text = sum(len(turn["content"].encode(errors="replace")) + 12 for turn in body["messages"])
    return text // 4 + 1 + body.get("max_tokens", body.get("max_completion_tokens", 0))


def read_reply(text: str) -> Reply:
    """The answer in the body of a reply with status 200.

    Raises:
        Unreadable: it is no chat completion, or one without a choice.
        Filtered: its finish reason is `content_filter`.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        said = error_message(body) if isinstance(body, dict) else ""
        raise Unreadable(f"it holds an error: {said}" if said else "it is not a chat completion")
    if not body["choices"]:
        raise Unreadable("it has no choices")
    choice = body["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Unreadable("its choice has no message")
    reason = choice.get("finish_reason")
    if reason == _FILTERED:
        raise Filtered
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ("" if reason in _CUT else None)  # cut while it still reasoned: no content
    if not isinstance(content, str):
        raise Unreadable("its message has no text")
    tokens_in, tokens_out = _usage(body)
    return Reply(
        text=content.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),  # half an emoji, where it was cut
        finished=reason is not None and reason not in _CUT,
        logps=_logps(choice),
        tops=_tops(choice),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )


def usage_of(text: str) -> tuple[int | None, int | None]:
    """The tokens in and out that the body of a reply names, of one that is no completion too: it is billed as well."""
    try:
        return _usage(json.loads(text))
    except (ValueError, RecursionError):
        return None, None


def error_message(body: Any) -> str:
    """What an endpoint says in the body of an error, in a line: OpenAI's `{"error": {"message"}}` and what others make
    of it. Empty where it says nothing."""
    if isinstance(body, Mapping):
        found = next((body[name] for name in ("error", "message", "detail") if body.get(name)), "")
        return error_message(found)
    lines = str(body or "").strip().splitlines()
    return lines[0] if lines else ""


def _usage(body: Any) -> tuple[int | None, int | None]:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None, None
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _logps(choice: Mapping[str, Any]) -> tuple[float, ...]:
    """All of them, or none: part of them would belong to unknown tokens."""
    values: list[float] = []
    for token in _tokens(choice):
        value = _logp(token)
        if value is None:
            return ()
        values.append(value)
    return tuple(values)


def _tops(choice: Mapping[str, Any]) -> tuple[Top, ...]:
    """Those of the last tokens, or none: all of a long answer's would be a thousand times its text."""
    found: list[Top] = []
    for token in _tokens(choice)[-LAST:]:
        tops = token.get("top_logprobs") if isinstance(token, dict) else None
        if not isinstance(tops, list) or not tops or not isinstance(token.get("token"), str):
            return ()
        likeliest: dict[str, float] = {}
        for top in tops:
            value = _logp(top)
            if value is None or not isinstance(top.get("token"), str):
                return ()
            likeliest.setdefault(top["token"], value)  # half a character is written like any other half
        found.append((token["token"], likeliest))
    return tuple(found)


def _tokens(choice: Mapping[str, Any]) -> list[Any]:
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return tokens if isinstance(tokens, list) else []


def _logp(token: Any) -> float | None:
    value = token.get("logprob") if isinstance(token, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
