"""Continuous batching: which sequence is computed when.

A prompt is computed once, however many samples it gets. Sequences occupy slots of a cache that never grows; a slot
whose sequence ends takes the next one from the queue, and when the queue is empty the batch shrinks, so a finished
sequence costs nothing. Only the last position of a sequence goes through the language model's head.

Every sequence has its own stream of uniform numbers, keyed by the seed, the prompt and the sample number, so that what
it draws does not depend on its neighbours.

Legend: A active sequences, V vocabulary, D hidden size, T tokens of packed prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sawyer.rollout.decoding import draw, full_logps
from sawyer.rollout.keys import sequence_key
from sawyer.rollout.kv_cache import KVCache
from sawyer.rollout.penalties import History, depends_on_history, penalised
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.search import Decoder, Drawn
from sawyer.rollout.stopping import Stopping


@dataclass
class _Sequence:
    """A sequence that is being generated."""

    prompt: int
    sample: int
    start: int  # the prompt's length
    uniforms: np.ndarray
    history: History | None  # None where no option looks at it
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    full_logps: list[float] = field(default_factory=list)
    ended: bool = False


class ContinuousBatch:
    """One cohort of prompts: the queue, the slots, and the loop between them. The first A slots are active."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        cohort: Sequence[int],
        slots: int,
        sampling: Sampling,
        stopping: Stopping,
        n: int,
        seed: int,
        progress: Callable[[int], None] | None,
    ):
        """
        Args:
            prompts: tokens of each prompt.
            cohort: the indices of those to complete, in the order of the queue.
            slots: most sequences at a time.
        """
        self.decoder, self.prompts, self.sampling, self.stopping = decoder, prompts, sampling, stopping
        self.slots, self.n, self.seed = slots, n, seed
        self.progress = progress or (lambda count: None)
        self.penalised = depends_on_history(sampling)
        # one more slot keeps the prompt whose samples have not all found a place yet
        self.held_slot = slots
        self.cache = KVCache(slots + 1, max(len(prompts[i]) for i in cohort) + sampling.max_tokens)
        self.queue = deque(cohort)
        self.active: list[_Sequence] = []
        self.held: deque[_Sequence] = deque()
        self.held_logits: torch.Tensor | None = None

    def completions(self) -> Iterator[tuple[int, int, Drawn]]:
        """The prompt's index, the sample's number and the completion, as they finish."""
        while self.queue or self.held or self.active:
            for s in (*self._admit(), *self._step()):
                yield s.prompt, s.sample, Drawn(tuple(s.ids), tuple(s.logps), s.ended, tuple(s.full_logps))

    def _admit(self) -> Iterator[_Sequence]:
        """Fill free slots: first with samples of the prompt that is held, then with prompts from the queue."""
        if self.held and len(self.active) < self.slots:
            assert self.held_logits is not None
            first = len(self.active)
            count = min(len(self.held), self.slots - first)
            self.active += [self.held.popleft() for _ in range(count)]
            self.cache.copy(self.held_slot, range(first, first + count), self.active[-1].start)
            yield from self._advance(self.held_logits.expand(count, -1), first)
        # A prefill of one prompt at a time would be slow: wait until an eighth of the slots is free.
        if not self.held and self.queue and self.slots - len(self.active) >= min(self.n, -(-self.slots // 8)):
            yield from self._prefill()

    def _prefill(self) -> Iterator[_Sequence]:
        first = len(self.active)
        admitted: list[Sequence[int]] = []
        slots: list[tuple[int, ...]] = []
        samples: list[int] = []
        while self.queue and len(self.active) < self.slots and not self.held:
            index = self.queue.popleft()
            new = self._new_sequences(index)
            at = len(self.active)
            room = min(self.n, self.slots - at)
            self.active += new[:room]
            self.held.extend(new[room:])
            admitted.append(self.prompts[index])
            slots.append((*range(at, at + room), *([self.held_slot] if self.held else [])))
            samples.append(room)
        hidden = self.decoder.prefill(admitted, slots, self.cache)
        logits = self.decoder.logits(torch.stack([hidden_T_D[-1] for hidden_T_D in hidden]))
        self.held_logits = logits[-1:].clone() if self.held else None
        yield from self._advance(logits.repeat_interleave(torch.tensor(samples, device=logits.device), 0), first)

    def _step(self) -> Iterator[_Sequence]:
        """One more token of every active sequence."""
        if not self.active:
            return
        positions = [s.start + len(s.ids) - 1 for s in self.active]
        hidden_A_D = self.decoder.decode([s.ids[-1] for s in self.active], positions, self.cache)
        yield from self._advance(self.decoder.logits(hidden_A_D), 0)

    def _advance(self, logits_A_V: torch.Tensor, first: int) -> Iterator[_Sequence]:
        """Draw the next token of the sequences from slot `first` on, and free the slots of those that end."""
        sequences = self.active[first:]
        uniforms = torch.from_numpy(np.array([s.uniforms[len(s.ids)] for s in sequences])).to(logits_A_V.device)
        changed_A_V = logits_A_V
        if self.penalised:
            histories = [s.history for s in sequences if s.history is not None]
            changed_A_V = penalised(logits_A_V, self.sampling, histories, self.stopping.end_ids)
        token_A, logp_A = draw(changed_A_V, self.sampling, uniforms)
        tokens = token_A.tolist()
        for sequence, token, logp in zip(sequences, tokens, logp_A.tolist(), strict=True):
            sequence.ids.append(token)
            sequence.logps.append(logp)
            sequence.ended = self.stopping.ended(sequence.ids)
            if sequence.history is not None:
                sequence.history.add(token)
        if self.sampling.full_logps:
            for sequence, logp in zip(sequences, full_logps(logits_A_V, token_A).tolist(), strict=True):
                sequence.full_logps.append(logp)
        self.progress(len(sequences))
        for slot in range(len(self.active) - 1, first - 1, -1):
            sequence = self.active[slot]
            if sequence.ended or len(sequence.ids) == self.sampling.max_tokens:
                last = self.active.pop()
                if last is not sequence:  # the last active sequence moves into the slot that is free now
                    self.active[slot] = last
                    self.cache.copy(len(self.active), [slot], last.start + len(last.ids) - 1)
                yield sequence

    def _new_sequences(self, index: int) -> list[_Sequence]:
        ids = self.prompts[index]
        prompt = np.asarray(ids, dtype=np.int64)
        history = History(self.sampling, ids) if self.penalised else None
        return [
            _Sequence(
                index,
                sample,
                len(ids),
                _uniforms(self.seed, prompt, sample, self.sampling.max_tokens),
                None if history is None else history.copy(),
            )
            for sample in range(self.n)
        ]


def _uniforms(seed: int, prompt: np.ndarray, sample: int, count: int) -> np.ndarray:
    """The uniform numbers, in [0, 1), of a sequence: the first ones are the same for every `count`."""
    key = int.from_bytes(sequence_key(seed, prompt, sample), "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.random(count, dtype=np.float32)
