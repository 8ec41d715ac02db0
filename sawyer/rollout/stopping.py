"""When a completion ends by itself, and what its text is then."""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.data.chat import ChatFormat
from sawyer.rollout.sampling import Sampling

_MARGIN = 16  # characters at the beginning of a decoded tail that may differ from the same ones in the whole text


class Stopping:
    """The ends of completions: end tokens of the model, stop tokens and stop strings of the settings.

    A stop string may span tokens, and may begin or end inside one. It counts if it ends in the text that comes after
    the first `min_tokens` tokens, as in vLLM; a completion ends with the token that completes it.

    Attributes:
        end_ids: every token that ends a completion, ascending.
    """

    def __init__(self, sampling: Sampling, chat: ChatFormat):
        self.end_ids = sorted({*chat.stop_ids, *sampling.stop_token_ids})
        self._ends = frozenset(self.end_ids)
        self._decode = chat.decode
        self._stop = sampling.stop
        self._longest = max(map(len, sampling.stop), default=0)
        self._min_tokens = sampling.min_tokens

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether a completion ends with the last of its tokens."""
        return ids[-1] in self._ends or (bool(self._stop) and self._completes_stop(ids))

    def text(self, ids: Sequence[int]) -> str:
        """The text of a completion, cut before the token or the first string that stops it."""
        kept = ids[:-1] if ids and ids[-1] in self._ends else ids
        text = self._decode(kept)
        return text[: self._cut(kept, text)] if self._stop else text

    def _cut(self, ids: Sequence[int], text: str) -> int | None:
        """Where the stop string begins that begins first; None if there is none."""
        after = len(self._decode(ids[: self._min_tokens])) if self._min_tokens else 0
        found = [text.find(stop, max(0, after - len(stop) + 1)) for stop in self._stop]
        return min((at for at in found if at >= 0), default=None)

    def _completes_stop(self, ids: Sequence[int]) -> bool:
        """Only the end of the text is decoded, as far as a stop string can reach that the last token completes."""
        if len(ids) <= self._min_tokens:
            return False
        width = self._longest + 8
        while width < len(ids) and len(self._decode(ids[-width:-1])) < self._longest + _MARGIN:
            width *= 2
        tail = self._decode(ids[-width:])
        return any(stop in tail for stop in self._stop) and self._cut(ids, self._decode(ids)) is not None
