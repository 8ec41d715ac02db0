"""What the contenders are given: token ids, of text cut to the lengths of real data or read from an HH-RLHF file.

A pair is `{"prompt", "completions"}`, better first, and a ranking the same with more of them, best first; a
conversation is `{"ids", "scored"}` with a flag for each token that says whether it is the assistant's. Both sides get
these very ids, so neither side's tokenisation can make a difference.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

from sawyer.errors import SawyerError

Row = dict[str, list]

PROMPT_TOKENS, CHOSEN_TOKENS, REJECTED_TOKENS = (125, 0.95), (40, 0.84), (50, 0.93)
"""Mean, and spread of the logarithm, as measured on HH-RLHF (harmless-base) with SmolLM2's tokenizer."""
CONVERSATION_TOKENS = (220, 0.9)
SHORTEST, LONGEST = 20, 800
"""Tokens of a generated conversation."""
LONGEST_PAIR = 512
"""Tokens of the pairs of HH-RLHF whose prompts are taken, where only those count."""


def lengths(count: int, mean_and_spread: tuple[float, float], low: int, high: int, rng: random.Random) -> list[int]:
    """`count` log-normal lengths in a random order.

    They are the distribution's quantiles, not draws, scaled to the mean: a small benchmark has it as a large one.
    """
    wanted, spread = mean_and_spread
    quantiles = [math.exp(spread * NormalDist().inv_cdf((i + 0.5) / count)) for i in range(count)]
    scale = wanted / mean(quantiles)
    for _ in range(20):  # the clipping moves the mean; scale it back
        clipped = [min(high, max(low, round(scale * q))) for q in quantiles]
        scale *= wanted / mean(clipped)
    rng.shuffle(clipped)
    return clipped


WARM_UP = 2
"""Updates before those that are timed."""


def with_warm_up(rows: list[Row], batch: int) -> list[Row]:
    """The rows, after the `WARM_UP` largest batches of them, the largest last.

    A process pays for memory when it first touches it: for activations in the first update, and in the second again for
    those whose place the optimiser's state has taken. After the largest batch there is enough for all. The batches
    differ where there are several, because a second update on the same batch says how much was learned from it, which
    bfloat16 changes on every side, and not whether both sides compute the same thing.
    """
    groups = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    groups.sort(key=lambda group: sum(map(tokens_once, group)))
    groups = groups[:1] * (WARM_UP - len(groups)) + groups
    return [row for group in groups[-WARM_UP:] for row in group] + rows


def generated_pairs(count: int, tokenizer: Any, max_length: int, seed: int) -> list[Row]:
    """Pairs of stretches of text with the lengths of HH-RLHF, each completion closed by the end token."""
    rng = random.Random(seed)
    source = text(tokenizer)
    chosen = lengths(count, CHOSEN_TOKENS, 3, max_length // 2, rng)
    rejected = lengths(count, REJECTED_TOKENS, 3, max_length // 2, rng)
    prompts = lengths(count, PROMPT_TOKENS, 4, max_length, rng)
    rows = []
    for p, c, r in zip(prompts, chosen, rejected, strict=True):
        p = min(p, max_length - max(c, r))
        prompt, first, second = (stretch(source, k, rng) for k in (p, c - 1, r - 1))
        end = [tokenizer.eos_token_id]
        rows.append({"prompt": prompt, "completions": [first + end, second + end]})
    return rows


def generated_conversations(count: int, tokenizer: Any, max_length: int, seed: int) -> list[Row]:
    """Conversations of text and mixed length: about 200 tokens a turn, 60 % of them the assistant's."""
    rng = random.Random(seed)
    source = text(tokenizer)
    high = min(LONGEST, max_length)
    rows = []
    for length in lengths(count, (min(CONVERSATION_TOKENS[0], high / 2), CONVERSATION_TOKENS[1]), SHORTEST, high, rng):
        ids: list[int] = []
        scored: list[bool] = []
        turns = 1 + length // 200
        for turn in range(turns):
            size = length // turns + (length % turns if turn == 0 else 0)
            asked = max(1, round(0.4 * size))
            ids += [*stretch(source, size - 1, rng), tokenizer.eos_token_id]
            scored += [False] * asked + [True] * (size - asked)
        rows.append({"ids": ids, "scored": scored})
    return rows


def hh_pairs(path: Path, count: int, tokenizer: Any, max_length: int) -> list[Row]:
    """The first `count` pairs of an HH-RLHF file that fit into `max_length` tokens.

    Raises:
        SawyerError: the file cannot be read, or has too few such pairs.
    """
    chat, records = _hh(path, tokenizer)
    rows: list[Row] = []
    for record in records:
        prompt = chat.prompt_ids(list(record.prompt))
        completions = [chat.completion_ids(text) for text in record.completions]
        if len(prompt) + max(map(len, completions)) <= max_length:
            rows.append({"prompt": prompt, "completions": completions})
        if len(rows) == count:
            return rows
    raise SawyerError(f"{path} has only {len(rows)} pairs of at most {max_length} tokens: ask for fewer.")


def hh_conversations(path: Path, count: int, tokenizer: Any, max_length: int) -> list[Row]:
    """The first `count` chosen dialogues of an HH-RLHF file that fit into `max_length` tokens.

    Raises:
        SawyerError: as `hh_pairs`.
    """
    chat, records = _hh(path, tokenizer)
    rows: list[Row] = []
    for record in records:
        messages = [*record.prompt, {"role": "assistant", "content": record.completions[0]}]
        ids, scored = chat.conversation_ids(messages)
        if len(ids) <= max_length:
            rows.append({"ids": ids, "scored": scored})
        if len(rows) == count:
            return rows
    raise SawyerError(f"{path} has only {len(rows)} dialogues of at most {max_length} tokens: ask for fewer.")


def prompts(data: Path | None, count: int, tokenizer: Any, longest: int) -> list[Row]:
    """`count` prompts as conversations: those of the verifiable task, or the first ones of the HH-RLHF file `data` that
    have at most `longest` tokens. Raises SawyerError as `hh_pairs`."""
    from sawyer.data.chat import ChatFormat
    from sawyer.data.verifiable import make_prompts

    asked = make_prompts(count, "train") if data is None else _hh(data, tokenizer)[1]
    chat = ChatFormat(tokenizer, default="plain")
    fitting = (record.prompt for record in asked if len(chat.prompt_ids(record.prompt)) <= longest)
    rows = [{"prompt": list(prompt)} for prompt in itertools.islice(fitting, count)]
    if len(rows) < count:
        of = data or "the verifiable task"
        raise SawyerError(f"{of} has only {len(rows)} prompts of at most {longest} tokens: ask for fewer.")
    return rows


def rankings(data: Path | None, count: int, size: int, tokenizer: Any, max_length: int, seed: int) -> list[Row]:
    """`count` prompts with `size` completions each: those of the HH-RLHF file `data`, or generated with their lengths.

    Of real pairs and generated ones alike, a prompt gets its own two completions, then those of the pairs after it that
    fit behind it into `max_length` tokens. Raises SawyerError as `hh_pairs`.
    """
    if data is None:
        pairs = generated_pairs(count, tokenizer, max_length, seed)
    else:
        pairs = hh_pairs(data, count, tokenizer, max_length)
    pool = [completion for pair in pairs for completion in pair["completions"]]
    rows = []
    for i, pair in enumerate(pairs):
        room = max_length - len(pair["prompt"])
        fitting = (one for one in itertools.cycle(pool[2 * i :] + pool[: 2 * i]) if len(one) <= room)
        rows.append({"prompt": pair["prompt"], "completions": list(itertools.islice(fitting, size))})
    return rows


def tokens_once(row: Row) -> int:
    """Real tokens of a row, the prompt of a ranking counted once."""
    return len(row["ids"]) if "ids" in row else len(row["prompt"]) + sum(map(len, row["completions"]))


def tokens_in_pairs(row: Row) -> int:
    """Real tokens of a row where all pairs of a ranking are written out, each completion behind its prompt; no
    padding."""
    if "ids" in row:
        return len(row["ids"])
    pairs = itertools.combinations(row["completions"], 2)
    return sum(2 * len(row["prompt"]) + len(better) + len(worse) for better, worse in pairs)


def describe(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean lengths, for the report."""
    if "ids" in rows[0]:
        figures = {"ids": mean(len(r["ids"]) for r in rows), "scored": mean(sum(r["scored"]) for r in rows)}
    else:
        lengths_of_all = [len(completion) for r in rows for completion in r["completions"]]
        figures = {"prompt": mean(len(r["prompt"]) for r in rows), "completion": mean(lengths_of_all)}
    return {"rows": len(rows), "mean_tokens": {part: round(value, 1) for part, value in figures.items()}}


def text(tokenizer: Any) -> list[int]:
    """Tokens of the verifiable task's instructions and answers, end to end.

    Random tokens would take the same time, but a model is lost in them: in bfloat16 the gradient of either side is then
    a quarter off.
    """
    from sawyer.data.verifiable import demonstrations

    texts = [str(turn["content"]) for record in demonstrations(200, "train") for turn in record.messages]
    return [token for text in texts for token in tokenizer(f"{text}\n\n", add_special_tokens=False)["input_ids"]]


def stretch(source: list[int], size: int, rng: random.Random) -> list[int]:
    """`size` tokens that follow each other somewhere in `source`."""
    start = rng.randrange(len(source) - size)
    return source[start : start + size]


def _hh(path: Path, tokenizer: Any) -> tuple[Any, Any]:
    from sawyer.data.chat import ChatFormat
    from sawyer.data.hh import load_hh

    records, _ = load_hh(path)
    return ChatFormat(tokenizer, "plain"), records
