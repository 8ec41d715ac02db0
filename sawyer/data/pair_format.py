"""A prompt and a completion as an encoder reads them: `<s> prompt </s></s> completion </s>`, or each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from sawyer.data.records import Message
from sawyer.errors import SawyerError

SECOND = "second"
"""The name under which trees carry where each completion's second segment begins, for models with token types."""


class PairFormat:
    """How an encoder's tokenizer writes prompts with completions, with what stands around them as the model knows it.

    What is longer than `max_tokens` is cut from the right. A prompt and a completion in one sequence are cut longest
    first, as SAWYER did: tokens are taken from the longer of the two. Each completion's sequence depends on the prompt
    and on it alone, so that a score does not depend on what else is scored.

    Attributes:
        truncated: how many sequences have been cut so far.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, *, apart: bool = False) -> None:
        """
        Args:
            tokenizer: a Hugging Face tokenizer.
            max_tokens: the longest sequence, its special tokens included.
            apart: the prompt and each completion as sequences of their own (a bi-encoder).

        Raises:
            SawyerError: the tokenizer puts no special tokens around a text, so that an encoder cannot tell its parts;
                `max_tokens` leaves no room beside them.
        """
        if tokenizer.num_special_tokens_to_add(pair=True) < 2:
            raise SawyerError(
                f"{tokenizer.name_or_path or 'the tokenizer'} puts no special tokens around a pair of texts, as an "
                "encoder needs: use the tokenizer that the encoder was trained with"
            )
        least = tokenizer.num_special_tokens_to_add(pair=not apart) + 2
        if max_tokens < least:
            raise SawyerError(
                f"max_tokens is {max_tokens}; an encoder's special tokens and two of the text need {least} tokens"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.apart = apart
        self.truncated = 0

    def sequences(
        self, prompt: Sequence[Message], completions: Sequence[str]
    ) -> tuple[list[int], list[list[int]], list[int]]:
        """The tokens that all completions' sequences begin with, the rest of each, and where in the whole sequence
        each completion itself begins.

        With `apart` the first are the prompt's own sequence.
        """
        text = prompt_text(prompt)
        if self.apart:
            return self._encode(text)[0], [self._encode(completion)[0] for completion in completions], []
        ids, begins = zip(*(self._encode(text, completion) for completion in completions), strict=True)
        heads = zip(*(own[:begin] for own, begin in zip(ids, begins, strict=True)), strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, heads)]
        return shared, [own[len(shared) :] for own in ids], list(begins)

    @property
    def token_types(self) -> bool:
        """Whether the model is told which segment a token is of (BERT is, RoBERTa is not)."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer, with `max_tokens` as its longest sequence, into a model folder."""
        before = self.tokenizer.model_max_length
        self.tokenizer.model_max_length = self.max_tokens
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.model_max_length = before

    def _encode(self, text: str, second: str | None = None) -> tuple[list[int], int]:
        """The tokens, and where the second text begins (the closing token if it is empty)."""
        encoded = self.tokenizer(  # as a batch of one: alone, an empty second text would be left out
            [text], None if second is None else [second],
            truncation="longest_first", max_length=self.max_tokens, split_special_tokens=True,
        )  # fmt: skip
        written = encoded.encodings[0]
        self.truncated += bool(written.overflowing)
        segments = written.sequence_ids
        return list(written.ids), segments.index(1) if 1 in segments else len(segments) - 1


def prompt_text(prompt: Sequence[Message]) -> str:
    """A prompt for a model without a chat template: a lone user turn is its content; turns get their speaker's name."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    names = {"user": "Human: ", "assistant": "Assistant: ", "tool": "Tool: "}
    return "\n\n".join(names.get(turn["role"], "") + turn["content"] for turn in prompt)
