"""Other people's files: which format a file is in, and the record of each of its rows.

- `alpaca`: `instruction` (and `input`, `system`, `history`) with `output`, with `chosen` and `rejected`, or with
  `output` and `label`. Dolly's `context` and `response` are read as `input` and `output`.
- `sharegpt`: `conversations` of `from` and `value` (and `system`); with `chosen` and `rejected` it is a comparison,
  with `label` or `kto_tag` a labelled answer.
- `messages`: `messages` of `role` and `content`, as OpenAI has them (tools are ignored); with `label` it is a
  labelled answer.
- `trl`: `prompt` with `completion`, with `completion` and `label`, with `chosen` and `rejected`, with `completions`
  (best first, or with `scores`), or alone; or `chosen` and `rejected` that both begin with their prompt. Each is text
  or turns. Sawyer's own rows are of this format or of `messages`.
- `hh`: Anthropic's dialogues, see `hh.py`.

A file's format is read off the keys of its first rows. Where two formats fit (`prompt` and `messages` side by side,
say) nothing is guessed: the user has to choose, because the two would train on different text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from sawyer.data.files import LoadReport, RawRow, convert_rows, raw_rows
from sawyer.data.hh import check_alternation, hh_comparison, is_hh
from sawyer.data.records import (
    Comparison,
    Conversation,
    Labelled,
    Message,
    Prompt,
    Record,
    assistant,
    check_sides,
    from_row,
    user,
)
from sawyer.errors import SawyerError

Format = Literal["alpaca", "sharegpt", "messages", "trl", "hh"]
Row = Mapping[str, Any]
SAMPLE = 50
"""Rows looked at to find the format."""
PLAIN_TEXT = "plain text (`text`) has no prompt and no answer; write `prompt` and `completion`, or `messages`"
STEPWISE = (
    "`completions` with `labels` are the steps of one answer (TRL's stepwise supervision), not answers to rank; "
    "join the steps to a `completion`, or give `scores` where they are answers"
)

ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}


def load_any(path: str | Path, format: str = "auto", *, max_bad: float = 0.05) -> tuple[list[Record], LoadReport]:
    """The records of a file in any of the formats above; all of the type that most rows have.

    Raises:
        SawyerError: as `files.load_file`; the format is unknown or ambiguous.
    """
    return convert_any(path, raw_rows(path), format, max_bad=max_bad)


def convert_any(
    name: str | Path, rows: Sequence[RawRow], format: str = "auto", *, max_bad: float = 0.05
) -> tuple[list[Record], LoadReport]:
    """As `load_any`, of rows that have been read already; `name` is what errors call them."""
    if format == "auto":
        sample = list(islice((row.value for row in rows if isinstance(row.value, Mapping)), SAMPLE))
        chosen = detect(sample, name) if sample else "trl"
    elif format in get_args(Format):
        chosen = format
    else:
        raise SawyerError(f"`format: {format}` is not known; choose auto, {', '.join(get_args(Format))}")
    return convert_rows(name, rows, CONVERTERS[chosen], max_bad=max_bad)


def detect(rows: Sequence[Row], name: str | Path = "the file") -> str:
    """The one format that fits most of the first rows.

    Raises:
        SawyerError: none fits, or several do.
    """
    sample = rows[:SAMPLE]
    fits = {format: sum(fit(row) for row in sample) for format, fit in FITS.items()}
    found = [format for format, count in fits.items() if count > len(sample) / 2]
    if len(found) == 1:
        return found[0]
    keys = ", ".join(sorted(sample[0])) or "none"
    if not found:
        if sum(isinstance(row.get("text"), str) for row in sample) > len(sample) / 2:
            raise SawyerError(f"{name} cannot be used: {PLAIN_TEXT}")
        raise SawyerError(
            f"{name} is in no format that Sawyer knows (keys of its first row: {keys}); "
            f"rename them to those of {', '.join(FITS)}"
        )
    raise SawyerError(
        f"{name} can be read as {' or as '.join(found)} (keys of its first row: {keys}); "
        f"choose with `format: {found[0]}` or `format: {found[1]}`"
    )


# --- which format a row is in ---------------------------------------------------------------------------------------


def _has(row: Row, *keys: str) -> bool:
    return all(row.get(key) is not None for key in keys)


def _fits_trl(row: Row) -> bool:
    if is_hh(row):
        return False
    return _has(row, "prompt") or (
        _has(row, "chosen", "rejected") and not any(_has(row, key) for key in ("instruction", "conversations"))
    )


FITS: dict[str, Callable[[Row], bool]] = {
    "alpaca": lambda row: (
        _has(row, "instruction") and (_has(row, "output") or _has(row, "response") or _has(row, "chosen", "rejected"))
    ),
    "sharegpt": lambda row: isinstance(row.get("conversations"), Sequence),
    "messages": lambda row: isinstance(row.get("messages"), Sequence),
    "trl": _fits_trl,
    "hh": is_hh,
}


# --- the record of a row --------------------------------------------------------------------------------------------


def from_alpaca(row: Row) -> Record:
    """`instruction` and `input`, a blank line between them, are the user's turn."""
    instruction, extra = _string(row, "instruction"), row.get("input") or row.get("context") or ""
    if not isinstance(extra, str):
        raise SawyerError("`input` is not text")
    prompt: list[Message] = []
    if row.get("system"):
        prompt.append({"role": "system", "content": _string(row, "system")})
    for asked, answered in row.get("history") or []:
        prompt += [user(asked), assistant(answered)]
    prompt.append(user(f"{instruction}\n\n{extra}" if extra.strip() else instruction))
    output = row.get("output") if "output" in row else row.get("response")
    if _has(row, "chosen", "rejected"):
        return _comparison(prompt, _completion(row["chosen"]), _completion(row["rejected"]), row)
    if isinstance(output, list) and len(output) == 2:
        return _comparison(prompt, _completion(output[0]), _completion(output[1]), row)
    if not isinstance(output, str):
        raise SawyerError("`output` is missing or not text")
    return _answered(prompt, output, row)


def from_sharegpt(row: Row) -> Record:
    """`from` and `value` are the role and content of a turn; `system` may stand beside the conversation."""
    messages = turns_of(row["conversations"])
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return _conversational(messages, row)


def from_messages(row: Row) -> Record:
    """OpenAI's turns; a row that is one user turn (and a system turn) is a prompt."""
    return _conversational(turns_of(row["messages"]), row)


def from_trl(row: Row) -> Record:
    """TRL's prompt-only, prompt-completion, preference and unpaired preference rows, and Sawyer's own.

    Its language modelling (`text`) and stepwise supervision (`completions` with `labels`) are refused: no record holds
    text without turns, or marks for parts of an answer.
    """
    if not (_has(row, "completion") or _has(row, "completions")):
        check_sides(row)
    if not _has(row, "prompt"):
        if _has(row, "chosen", "rejected"):
            return _implicit_prompt(row)
        if isinstance(row.get("text"), str):
            raise SawyerError(PLAIN_TEXT)
        return from_row(row)
    prompt = turns_of(row["prompt"]) if not isinstance(row["prompt"], str) else [user(row["prompt"])]
    check_alternation(prompt)
    if _has(row, "chosen", "rejected"):
        if all(_is_turns(row[side]) and len(row[side]) > 1 for side in ("chosen", "rejected")):
            # UltraFeedback's way: whole conversations, and the first question once more as `prompt`.
            record = _implicit_prompt(row)
            if record.prompt[: len(prompt)] != tuple(prompt) and record.prompt[-1] != prompt[-1]:
                raise SawyerError("`prompt` is not the prompt of `chosen` and `rejected`")
            return record
        return _comparison(prompt, _completion(row["chosen"]), _completion(row["rejected"]), row)
    if _has(row, "completions"):
        if _has(row, "labels"):
            raise SawyerError(STEPWISE)
        completions = [_completion(c) for c in row["completions"]]
        if not all(c.strip() for c in completions):
            raise SawyerError("a completion is empty")
        scores = row.get("scores")
        return Comparison(tuple(prompt), tuple(completions), tuple(scores) if scores else None, _info(row))
    if _has(row, "completion"):
        return _answered(prompt, _completion(row["completion"]), row)
    return Prompt(tuple(prompt), _info(row))


CONVERTERS: dict[str, Callable[[Row], Record]] = {
    "alpaca": from_alpaca,
    "sharegpt": from_sharegpt,
    "messages": from_messages,
    "trl": from_trl,
    "hh": hh_comparison,
}


def _conversational(messages: list[Message], row: Row) -> Record:
    if not messages:
        raise SawyerError("the conversation has no turns")
    check_alternation(messages)
    check_sides(row)
    if _has(row, "chosen", "rejected"):
        return _comparison(messages, _completion(row["chosen"]), _completion(row["rejected"]), row)
    if messages[-1]["role"] != "assistant":
        if any(message["role"] == "assistant" for message in messages):
            raise SawyerError(f"the conversation ends with a turn of the {messages[-1]['role']}, not with an answer")
        return Prompt(tuple(messages), _info(row))
    if _label(row) is not None:
        return _answered(messages[:-1], messages[-1]["content"], row)
    return Conversation(tuple(messages), _info(row))


def _implicit_prompt(row: Row) -> Comparison:
    """The prompt is what `chosen` and `rejected` begin with: whole turns, or text up to the last common white space."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        while shared and not chosen[shared - 1].isspace():
            shared -= 1
        prompt = chosen[:shared].strip()
        if not prompt:
            raise SawyerError("`chosen` and `rejected` share no prompt, and the row has none")
        return _comparison([user(prompt)], chosen[shared:], rejected[shared:], row)
    better, worse = turns_of(chosen), turns_of(rejected)
    if not (better and worse):
        raise SawyerError("`chosen` or `rejected` has no turns")
    if better[:-1] != worse[:-1] or better[-1]["role"] != "assistant" or worse[-1]["role"] != "assistant":
        raise SawyerError("`chosen` and `rejected` differ before the final answer")
    check_alternation(better[:-1])
    return _comparison(better[:-1], better[-1]["content"], worse[-1]["content"], row)


def _comparison(prompt: list[Message], chosen: str, rejected: str, row: Row) -> Comparison:
    if not (chosen.strip() and rejected.strip()):
        raise SawyerError("an answer is empty")
    return Comparison(tuple(prompt), (chosen, rejected), None, _info(row))


def _answered(prompt: list[Message], completion: str, row: Row) -> Record:
    if not completion.strip():
        raise SawyerError("the answer is empty")
    label = _label(row)
    if label is not None:
        return Labelled(tuple(prompt), completion, label, _info(row))
    messages = [*prompt, assistant(completion)]
    check_alternation(messages)
    return Conversation(tuple(messages), _info(row))


def _label(row: Row) -> bool | None:
    label = row.get("kto_tag") if row.get("label") is None else row["label"]
    if label is not None and not isinstance(label, bool) and label not in (0, 1):
        raise SawyerError("`label` is neither true nor false")
    return None if label is None else bool(label)


def _info(row: Row) -> Mapping[str, Any]:
    info = row.get("info") or {}
    info = json.loads(info) if isinstance(info, str) else info
    if not isinstance(info, Mapping):
        raise SawyerError("`info` is not a JSON object")
    return info


def _string(row: Row, key: str) -> str:
    if not isinstance(row.get(key), str):
        raise SawyerError(f"`{key}` is missing or not text")
    return row[key]


def _completion(value: Any) -> str:
    """The text of an answer written as text, as one turn, or as a list with one turn."""
    if isinstance(value, str):
        return value
    turns = turns_of([value] if isinstance(value, Mapping) else value)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise SawyerError("an answer is neither text nor one turn of the assistant")
    return turns[0]["content"]


def _is_turns(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def turns_of(turns: Any) -> list[Message]:
    """Turns in OpenAI's or ShareGPT's words; roles are renamed, parts of a content are joined, other keys ignored."""
    if not _is_turns(turns):
        raise SawyerError("the turns are not a list")
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise SawyerError("a turn is not an object")
        role = turn.get("role") or turn.get("from")
        if not isinstance(role, str) or role.lower() not in ROLE_NAMES:
            raise SawyerError(f"a turn has the unknown role {role!r:.60}")
        content = turn["content"] if "content" in turn else turn.get("value")
        messages.append({"role": ROLE_NAMES[role.lower()], "content": _content(content)})
    if len(messages) > 1 and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        del messages[0]
    return messages


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not _is_turns(content):
        raise SawyerError("a turn has no text")
    parts = [part if isinstance(part, str) else part.get("text") or part.get("value") for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise SawyerError("a turn has a part that is not text")
    return "".join(parts)
