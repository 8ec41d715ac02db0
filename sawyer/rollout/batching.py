"""Continuous batching: which sequence is computed when.

A prompt is computed once, however many samples it gets. Sequences occupy slots of a cache that never grows; the slots
of those that end take the next ones from the queue, and when the queue is empty the batch shrinks, so a finished
sequence costs next to nothing. Only the last position of a sequence goes through the language model's head.

New prompts are taken when as many slots are free as a prompt has samples, or else an eighth of all. A prefill reads all
weights, for one prompt as for thirty, and that costs more than the sixteenth of the slots which is empty on average
(docs/experiments.md).

Every sequence has its own stream of uniform numbers, keyed by the seed, the prompt and the sample number, so that what
it draws does not depend on its neighbours.

Legend: A active sequences, V vocabulary, D hidden size, T tokens of packed prompts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sawyer.numerics import trim
from sawyer.rollout.decoding import draw, full_logps
from sawyer.rollout.filters import filters
from sawyer.rollout.keys import sequence_key
from sawyer.rollout.kv_cache import KVCache
from sawyer.rollout.penalties import History, depends_on_history, penalised
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.search import DIVERGED, Decoder, Drawn
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
    error: str | None = None

    def drawn(self) -> Drawn:
        """The completion."""
        if self.error is not None:
            return Drawn.failed(self.error)
        return Drawn(tuple(self.ids), tuple(self.logps), self.ended, tuple(self.full_logps))


class ContinuousBatch:
    """One cohort of prompts: the queue, the slots, and the loop between them.

    Sequences that are being generated are in the first slots. One that ends leaves a gap, which a new sequence fills,
    or else, before the next step, the last one: only then its keys and values have to move.
    """

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
        self.plain = not self.penalised and not filters(sampling) and sampling.temperature == 1
        # one more slot keeps the prompt whose samples have not all found a place yet
        self.held_slot = slots
        trim()  # free memory of the size of activations holds no cache, and would count beside it
        self.cache = KVCache(slots + 1, max(len(prompts[i]) for i in cohort) + sampling.max_tokens)
        self.queue = deque(cohort)
        self.active: list[_Sequence] = []
        self.gaps: list[int] = []  # slots of `active` whose sequence has ended
        self.held: deque[_Sequence] = deque()
        self.held_logits: torch.Tensor | None = None

    def completions(self) -> Iterator[tuple[int, int, Drawn]]:
        """The prompt's index, the sample's number and the completion, as they finish."""
        while self.queue or self.held or len(self.active) > len(self.gaps):
            for s in (*self._admit(), *self._step()):
                yield s.prompt, s.sample, s.drawn()

    def _admit(self) -> Iterator[_Sequence]:
        """Fill free slots: first with samples of the prompt that is held, then with prompts from the queue."""
        if self.held and self._room:
            assert self.held_logits is not None
            count = min(len(self.held), self._room)
            slots = self._place([self.held.popleft() for _ in range(count)])
            self.cache.copy(self.held_slot, slots, self.active[slots[0]].start)
            yield from self._advance(self.held_logits.repeat(count, 1), slots)
        if not self.held and self.queue and self._room >= min(self.n, -(-self.slots // 8)):
            yield from self._prefill()

    def _prefill(self) -> Iterator[_Sequence]:
        admitted: list[Sequence[int]] = []
        slots: list[tuple[int, ...]] = []
        placed: list[list[int]] = []
        while self.queue and self._room and not self.held:
            index = self.queue.popleft()
            new = self._new_sequences(index)
            own = self._place(new[: self._room])
            self.held.extend(new[len(own) :])
            admitted.append(self.prompts[index])
            slots.append((*own, *([self.held_slot] if self.held else [])))
            placed.append(own)
        hidden = self.decoder.prefill(admitted, slots, self.cache)
        logits = self.decoder.logits(torch.stack([hidden_T_D[-1] for hidden_T_D in hidden]))
        self.held_logits = logits[-1:].clone() if self.held else None
        samples = torch.tensor([len(own) for own in placed], device=logits.device)
        yield from self._advance(logits.repeat_interleave(samples, 0), [slot for own in placed for slot in own])

    def _step(self) -> Iterator[_Sequence]:
        """One more token of every active sequence."""
        self._close_gaps()
        if not self.active:
            return
        positions = [s.start + len(s.ids) - 1 for s in self.active]
        hidden_A_D = self.decoder.decode([s.ids[-1] for s in self.active], positions, self.cache)
        yield from self._advance(self.decoder.logits(hidden_A_D), range(len(self.active)))

    def _advance(self, logits_A_V: torch.Tensor, slots: Sequence[int]) -> Iterator[_Sequence]:
        """Draw the next token of the sequences in these slots, and free the slots of those that end. The logits are
        not needed afterwards, and may be written over."""
        sequences = [self.active[slot] for slot in slots]
        uniforms = torch.from_numpy(np.array([s.uniforms[len(s.ids)] for s in sequences])).to(logits_A_V.device)
        changed_A_V = logits_A_V
        if self.penalised:
            histories = [s.history for s in sequences if s.history is not None]
            changed_A_V = penalised(
                logits_A_V, self.sampling, histories, self.stopping.end_ids, in_place=not self.sampling.full_logps
            )
        token_A, logp_A = draw(changed_A_V, self.sampling, uniforms)
        tokens = token_A.tolist()
        logps = logp_A.tolist()
        for sequence, token, logp in zip(sequences, tokens, logps, strict=True):
            sequence.error = None if math.isfinite(logp) else DIVERGED
            sequence.ids.append(token)
            sequence.logps.append(logp)
            sequence.ended = self.stopping.ended(sequence.ids)
            if sequence.history is not None:
                sequence.history.add(token)
        if self.sampling.full_logps:
            full = logps if self.plain else full_logps(logits_A_V, token_A).tolist()
            for sequence, logp in zip(sequences, full, strict=True):
                sequence.full_logps.append(logp)
        self.progress(len(sequences))
        for slot, sequence in zip(slots, sequences, strict=True):
            if sequence.error is not None:
                self.cache.clear([slot])
            if sequence.error is not None or sequence.ended or len(sequence.ids) == self.sampling.max_tokens:
                self.gaps.append(slot)
                yield sequence

    @property
    def _room(self) -> int:
        """How many more sequences may run."""
        return self.slots - len(self.active) + len(self.gaps)

    def _place(self, sequences: Sequence[_Sequence]) -> list[int]:
        """Give new sequences a slot each: gaps first."""
        slots = []
        for sequence in sequences:
            if self.gaps:
                slots.append(self.gaps.pop())
                self.active[slots[-1]] = sequence
            else:
                slots.append(len(self.active))
                self.active.append(sequence)
        return slots

    def _close_gaps(self) -> None:
        """Move the last sequences into the gaps that are left."""
        for slot in sorted(self.gaps, reverse=True):
            last = self.active.pop()
            if slot < len(self.active):
                self.active[slot] = last
                self.cache.copy(len(self.active), [slot], last.start + len(last.ids) - 1)
        self.gaps.clear()

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
