"""The four records that all of Sawyer's data is made of.

They are written as the conversational rows that `datasets` and TRL read, so any file Sawyer writes can be used
elsewhere, and the other way round:

| record        | row                                                                                  |
|---------------|--------------------------------------------------------------------------------------|
| `Conversation`| `{"messages": [{"role", "content"}, ...]}`                                           |
| `Prompt`      | `{"prompt": [{"role", "content"}, ...]}`                                             |
| `Comparison`  | `{"prompt", "chosen", "rejected"}`, or with scores or K > 2 `{"prompt", "completions", "scores"?}` |
| `Labelled`    | `{"prompt", "completion", "label"}`                                                  |

Every row may carry `info`, a JSON object that travels with it: what a rule-based reward needs to know of the prompt,
where the row comes from, who labelled it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from sawyer.errors import SawyerError

Role = Literal["system", "user", "assistant", "tool"]
ROLES = ("system", "user", "assistant", "tool")


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked: a conversation that ends with the user's turn."""

    prompt: tuple[Message, ...]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _messages(self.prompt, "prompt"))
        if self.prompt[-1]["role"] == "assistant":
            raise SawyerError("a prompt must not end with an assistant turn: that turn is the completion")

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.prompt[-1]["content"]

    def row(self) -> dict[str, Any]:
        return _with_info({"prompt": list(self.prompt)}, self.info)


@dataclass(frozen=True)
class Conversation:
    """A dialogue to imitate; the loss is on its assistant turns."""

    messages: tuple[Message, ...]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", _messages(self.messages, "messages"))
        if not any(message["role"] == "assistant" for message in self.messages):
            raise SawyerError(
                "a conversation needs at least one assistant turn, there is nothing to learn from otherwise"
            )

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the first assistant turn: what identifies the conversation in a split."""
        first = next(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return self.messages[:first]

    def row(self) -> dict[str, Any]:
        return _with_info({"messages": list(self.messages)}, self.info)


@dataclass(frozen=True)
class Comparison:
    """K >= 2 completions of one prompt, best first.

    With `scores` (higher is better) the completions are sorted by them; without, the order given is the ranking.
    Equal scores rank nothing and are refused.
    """

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", Prompt(self.prompt).prompt)
        completions = tuple(self.completions)
        if len(completions) < 2:
            raise SawyerError(f"a comparison needs at least two completions, this one has {len(completions)}")
        if not all(isinstance(c, str) for c in completions):
            raise SawyerError("a completion must be text")
        if len(set(completions)) < len(completions):
            raise SawyerError("two completions of a comparison are the same text (chosen equals rejected)")
        if self.scores is not None:
            scores = tuple(float(s) for s in self.scores)
            if len(scores) != len(completions):
                raise SawyerError(f"a comparison has {len(completions)} completions but {len(scores)} scores")
            if not all(math.isfinite(score) for score in scores):
                raise SawyerError("a score is not a finite number")
            if len(set(scores)) < len(scores):
                raise SawyerError("two completions have the same score, so neither is preferred")
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            completions = tuple(completions[i] for i in order)
            object.__setattr__(self, "scores", tuple(scores[i] for i in order))
        object.__setattr__(self, "completions", completions)

    @property
    def chosen(self) -> str:
        return self.completions[0]

    @property
    def rejected(self) -> str:
        return self.completions[-1]

    def row(self) -> dict[str, Any]:
        row: dict[str, Any]
        if len(self.completions) == 2 and self.scores is None:
            row = {"prompt": list(self.prompt), "chosen": _turn(self.chosen), "rejected": _turn(self.rejected)}
        else:
            row = {"prompt": list(self.prompt), "completions": [_turn(c) for c in self.completions]}
            if self.scores is not None:
                row["scores"] = list(self.scores)
        return _with_info(row, self.info)


@dataclass(frozen=True)
class Labelled:
    """One completion with a thumbs up or down (KTO, classifiers)."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", Prompt(self.prompt).prompt)

    def row(self) -> dict[str, Any]:
        return _with_info(
            {"prompt": list(self.prompt), "completion": _turn(self.completion), "label": self.label}, self.info
        )


Record = Prompt | Conversation | Comparison | Labelled


def from_row(row: Mapping[str, Any]) -> Record:
    """The record of one of Sawyer's own rows (see the table above).

    Raises:
        SawyerError: the row has none of the four shapes, or a field of the wrong type.
    """
    info = row.get("info") or {}
    if isinstance(info, str):
        info = json.loads(info)
    if row.get("messages") is not None:
        return Conversation(row["messages"], info)
    if row.get("prompt") is None:
        raise SawyerError("a row has neither `messages` nor `prompt`")
    if row.get("completions") is not None:
        scores = row.get("scores")
        return Comparison(row["prompt"], tuple(_text(c) for c in row["completions"]), scores and tuple(scores), info)
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return Comparison(row["prompt"], (_text(row["chosen"]), _text(row["rejected"])), None, info)
    if row.get("completion") is not None and row.get("label") is not None:
        return Labelled(row["prompt"], _text(row["completion"]), bool(row["label"]), info)
    check_sides(row)
    return Prompt(row["prompt"], info)


def check_sides(row: Mapping[str, Any]) -> None:
    """A row has `chosen` and `rejected`, or neither.

    Raises:
        SawyerError: it has one of them.
    """
    missing = [side for side in ("chosen", "rejected") if row.get(side) is None]
    if len(missing) == 1:
        raise SawyerError(f"`{missing[0]}` is missing")


def _turn(completion: str) -> list[Message]:
    return [assistant(completion)]


def _text(completion: Any) -> str:
    """The text of a completion written as text or as one assistant turn."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and len(completion) == 1 and completion[0].get("role") == "assistant":
        return completion[0]["content"]
    raise SawyerError("a completion must be a text or a list with one assistant turn")


def _with_info(row: dict[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "info": dict(info)} if info else row


def _messages(messages: Any, name: str) -> tuple[Message, ...]:
    if isinstance(messages, str):
        messages = [user(messages)]
    if not isinstance(messages, Sequence) or not messages:
        raise SawyerError(f"`{name}` must be a non-empty list of turns with `role` and `content`")
    turns: list[Message] = []
    for turn in messages:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise SawyerError(f"every turn of `{name}` needs a `role` and a text `content`")
        if turn.get("role") not in ROLES:
            raise SawyerError(
                f"`{name}` has a turn of role {turn.get('role')!r:.60}; known roles are {', '.join(ROLES)}"
            )
        turns.append({"role": turn["role"], "content": turn["content"]})
    return tuple(turns)
