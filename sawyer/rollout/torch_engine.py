"""Generation with a Hugging Face decoder, on whatever device torch has.

It checks what is asked, holds the weights and runs the model over the cache; which sequence runs when is decided in
`batching` (sampling), `beam` and `contrastive`.

What is drawn depends on the seed, the prompt and the sample number. What shares the batch changes only the rounding of
the logits (about 1e-6 in float32, so that a token changes only where a uniform number falls that close to a border
between two tokens; in bfloat16 about 1e-2, so there a completion may differ between batches).

Legend: A active sequences, B sequences of a batch, D hidden size, T tokens of packed prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.models import native
from sawyer.models.logits import final_logits
from sawyer.models.precision import DTYPES
from sawyer.numerics import release
from sawyer.rollout import kv_cache
from sawyer.rollout.batching import ContinuousBatch
from sawyer.rollout.beam import beam_search
from sawyer.rollout.cohorts import Limits, cohorts
from sawyer.rollout.contrastive import contrastive_search
from sawyer.rollout.fused import FusedDecoder, LeftHead, can_pack, filled, fuse
from sawyer.rollout.prompts import check_prompt_ids, completions, read_prompts
from sawyer.rollout.protocol import Completion, Sampling
from sawyer.rollout.sampling import check_sampling, check_token_ids
from sawyer.rollout.search import Decoder, Drawn
from sawyer.rollout.stopping import Stopping

PREFILL_TOKENS = 512


class TorchEngine:
    """The `Engine` on torch.

    Attributes:
        forward_tokens: tokens computed by the backbone since the engine was made, prompts included.
    """

    def __init__(
        self,
        model: Any,
        chat: ChatFormat,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        max_batch: int = 256,
        token_budget: int = 32_768,
        share: bool = False,
        take: bool = False,
    ):
        """
        Args:
            model: a Hugging Face causal language model, with or without adapters (peft).
            chat: how prompts and completions are written.
            precision: type of the engine's own weights and cache; ignored if `share` or `take`.
            max_batch: most sequences at a time.
            token_budget: most tokens that the cache holds, besides one prompt: fewer sequences run at a time if they
                are long.
            share: generate with `model` itself, in its own precision, rather than with a copy. It is left as it was.
            take: the same, but the model is the engine's from now on: it may be rearranged for speed, and nobody else
                can use it.

        Raises:
            SawyerError: the architecture has layers that are not attention over a plain cache.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not kv_cache.supports(base):
            raise SawyerError(
                f"the torch engine cannot generate with a {type(base).__name__}: it needs a decoder whose layers are "
                "all attention through transformers' AttentionInterface"
            )
        if share and take:
            raise SawyerError("an engine either shares its model or takes it: choose one")
        if max_batch < 1 or token_budget < 1:
            raise SawyerError("max_batch and token_budget must be at least 1")
        self.chat = chat
        self.limits = Limits(max_batch, token_budget)
        self.forward_tokens = 0
        self._shared = share
        self._model = base if share or take else _frozen_copy(base, DTYPES[precision])
        self._fused: FusedDecoder | None = None
        self._head: LeftHead | None = None
        self._tried = False
        self._context = kv_cache.context(base)
        self._note = kv_cache.context_note(base)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights into the engine's own, casting. Tied ones may be left out.

        Names are those of the Hugging Face model's state dict (with adapters: of `get_base_model()`'s).

        An engine that shares its model sees the trainer's weights as they are: there is nothing to copy.

        Raises:
            SawyerError: a weight is missing or has another shape; the engine keeps the weights that it has.
        """
        if self._shared:
            return
        owns = dict(self._model.named_parameters())
        for name, own in owns.items():  # all of them before any is copied: half a refresh would be no model at all
            if name not in weights or weights[name].shape != own.shape:
                raise SawyerError(f"the weights for the engine lack {name} of shape {tuple(own.shape)}")
        with torch.no_grad():
            for name, own in owns.items():
                if not own.is_meta:  # packed
                    own.copy_(weights[name])
            if self._fused is not None:
                names = {module: name for name, module in self._model.named_modules()}
                self._fused.load(lambda layer: weights[f"{names[layer]}.weight"])

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        keep_failed: bool = False,
        decoder: Decoder | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt, in order. See `Engine.generate`.

        Args:
            decoder: what gives the logits, if it is not this engine: one that knows the same tokens.

        Raises:
            SawyerError: n is not positive or the sampling settings contradict each other; without `keep_failed` also: a
                prompt is empty, is refused by the chat template, or leaves no room for `max_tokens` in the model's
                context (the message names its index); the model's logits are not numbers.
        """
        self.generate_ids([], sampling, n)  # n and settings are checked before any prompt is
        asked, problems = read_prompts(
            prompts, self.chat, sampling.max_tokens, self._context, keep_failed=keep_failed, note=self._note
        )
        drawn = self.generate_ids(asked, sampling, n, seed, progress, keep_failed=keep_failed, decoder=decoder)
        return completions(problems, drawn, n, Stopping(sampling, self.chat).text)

    def generate_ids(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        n: int = 1,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        *,
        keep_failed: bool = False,
        decoder: Decoder | None = None,
    ) -> list[list[Drawn]]:
        """As `generate`, on tokens. Prompts that cannot be answered are an error in any case."""
        check_sampling(sampling, n)
        check_token_ids(sampling, self.vocabulary)
        check_prompt_ids(prompts, sampling.max_tokens, self._context, self._note)
        if not prompts:
            return []
        with self.ready():
            if sampling.num_beams > 1 or sampling.penalty_alpha > 0:
                return self._search(
                    prompts, sampling, n, progress or (lambda count: None), keep_failed, decoder or self
                )
            stopping = Stopping(sampling, self.chat)
            out: list[list[Drawn | None]] = [[None] * n for _ in prompts]
            for cohort, slots in cohorts([len(ids) + sampling.max_tokens for ids in prompts], n, self.limits):
                batch = ContinuousBatch(decoder or self, prompts, cohort, slots, sampling, stopping, n, seed, progress)
                for prompt, sample, drawn in batch.completions():
                    out[prompt][sample] = _checked(drawn, keep_failed)
        return [[drawn for drawn in samples if drawn is not None] for samples in out]

    def _search(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        n: int,
        progress: Callable[[int], None],
        keep_failed: bool,
        decoder: Decoder,
    ) -> list[list[Drawn]]:
        """Beam or contrastive search: as many prompts at a time as the limits allow, one at least."""
        contrastive = sampling.penalty_alpha > 0
        search, width = (contrastive_search, sampling.top_k) if contrastive else (beam_search, sampling.num_beams)
        if not contrastive and n > width:
            raise SawyerError(f"n is {n}: beam search with num_beams {width} finds at most {width} completions")
        stopping = Stopping(sampling, self.chat)
        out: list[list[Drawn]] = [[] for _ in prompts]
        for cohort, slots in cohorts([len(ids) + sampling.max_tokens for ids in prompts], width, self.limits):
            at_a_time = max(1, slots // width)
            for start in range(0, len(cohort), at_a_time):
                some = cohort[start : start + at_a_time]
                found = search(decoder, [prompts[i] for i in some], sampling, stopping, progress)
                for index, drawn in zip(some, found, strict=True):
                    drawn = [_checked(one, keep_failed) for one in drawn]
                    out[index] = (drawn * n)[:n]  # contrastive search finds one, which is every sample's answer
        return out

    def forward(self, ids_B_T: torch.Tensor, position_B_T: torch.Tensor, cache: kv_cache.KVCache) -> torch.Tensor:
        """The backbone's hidden states `[B, T, D]`, keys and values going to the cache."""
        self.forward_tokens += ids_B_T.numel()
        return (self._fused or self._plain_forward)(ids_B_T, position_B_T, cache)

    def _plain_forward(
        self, ids_B_T: torch.Tensor, position_B_T: torch.Tensor, cache: kv_cache.KVCache
    ) -> torch.Tensor:
        return self._model.base_model(
            input_ids=ids_B_T, position_ids=position_B_T, use_cache=False, sawyer_cache=cache
        ).last_hidden_state

    def prefill(
        self, prompts: Sequence[Sequence[int]], slots: Sequence[tuple[int, ...]], cache: kv_cache.KVCache
    ) -> list[torch.Tensor]:
        """The hidden states `[T, D]` of each prompt, whose keys and values go to its slots.

        Whole prompts go through the model together, up to `PREFILL_TOKENS` at a time: beyond that more of them take
        memory for their activations and no less time.
        """
        hidden: list[torch.Tensor] = []
        for start, end in _pieces([len(ids) for ids in prompts]):
            hidden += self._prefill(prompts[start:end], slots[start:end], cache)
        return hidden

    def _prefill(
        self, prompts: Sequence[Sequence[int]], slots: Sequence[tuple[int, ...]], cache: kv_cache.KVCache
    ) -> list[torch.Tensor]:
        ends = np.cumsum([len(ids) for ids in prompts]).tolist()
        spans = [kv_cache.Span(end - len(ids), end, own) for end, ids, own in zip(ends, prompts, slots, strict=True)]
        ids_T = torch.tensor([token for ids in prompts for token in ids], device=self.device)
        position_T = torch.cat([torch.arange(s.end - s.start) for s in spans]).to(self.device)
        cache.plan_prefill(spans)
        hidden_T_D = self.forward(ids_T[None], position_T[None], cache)[0]
        return [hidden_T_D[s.start : s.end] for s in spans]

    def decode(self, ids: Sequence[int], positions: Sequence[int], cache: kv_cache.KVCache) -> torch.Tensor:
        """The hidden states `[A, D]` of one more token of each of the first A slots."""
        position_A = torch.tensor(positions, device=self.device)
        cache.plan_decode(position_A)
        return self.forward(torch.tensor(ids, device=self.device)[:, None], position_A[:, None], cache)[:, -1]

    def logits(self, hidden_A_D: torch.Tensor) -> torch.Tensor:
        return final_logits(self._model, filled(hidden_A_D), self._head)[: len(hidden_A_D)]

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt with its completion; None if the model names no limit."""
        return self._context

    @property
    def vocabulary(self) -> int:
        """How many tokens the model has."""
        return self._model.get_output_embeddings().weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self._model.get_output_embeddings().weight.device

    def _pack(self, fused: FusedDecoder) -> None:
        """Bring the weights into the layout in which few rows are multiplied fastest."""
        fused.pack()
        head, functions = self._model.get_output_embeddings(), native.library(self._model.dtype)
        if type(head) is torch.nn.Linear and functions is not None:
            self._head = LeftHead(head, functions)
        release()  # the weights as they were

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, the model runs without gradients or dropout, and attends over our cache."""
        model, before, training = self._model, self._model.config._attn_implementation, self._model.training
        model.eval()
        model.set_attn_implementation(kv_cache.NAME)
        try:
            with torch.no_grad() if self._shared else torch.inference_mode():
                if not self._tried:
                    self._tried, self._fused = True, fuse(model, self._plain_forward)
                    if self._fused is not None and not self._shared and can_pack(model.dtype, self.device):
                        self._pack(self._fused)
                if self._fused is not None:
                    self._fused.link()
                yield
        finally:
            model.set_attn_implementation(before)
            model.train(training)


def _pieces(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of prompts, `(start, end)`, of at most `PREFILL_TOKENS` together; a longer prompt is a run of its own."""
    start = tokens = 0
    for at, length in enumerate(lengths):
        if at > start and tokens + length > PREFILL_TOKENS:
            yield start, at
            start, tokens = at, 0
        tokens += length
    yield start, len(lengths)


def _checked(drawn: Drawn, keep_failed: bool) -> Drawn:
    """What was drawn.

    Raises:
        SawyerError: it could not be had, and failures are not kept.
    """
    if drawn.error is not None and not keep_failed:
        raise SawyerError(drawn.error)
    return drawn


def _frozen_copy(model: Any, dtype: torch.dtype) -> Any:
    """A copy of the model whose weights are cast and need no gradients; tied weights stay tied.

    Buffers keep their type: rotary frequencies are float32 in every precision.
    """
    memo: dict[int, Any] = {
        id(p): torch.nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=False) for p in model.parameters()
    }
    return copy.deepcopy(model, memo).eval()
