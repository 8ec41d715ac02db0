"""Generation from the geometric mixture of two models, token by token: Nash-MD's opponent.

    p(token) = softmax((1 - m) log pi + m log ref) ~ pi^(1-m) ref^m

(Munos et al. 2023, arXiv 2312.00886, section 7: an exact mixture of whole answers cannot be drawn from, so that both
are mixed at each token.) Both models read every token over caches of their own; log-probs and logits mix alike, since
they differ by a constant that the softmax takes off again. Penalties, temperature and filters are of the mixture.

Legend: A sequences, D hidden size of one model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.rollout.kv_cache import KVCache
from sawyer.rollout.protocol import Completion, Sampling
from sawyer.rollout.torch_engine import TorchEngine


class MixtureEngine:
    """An `Engine` between two others, whose tokens must be the same.

    Args:
        policy: gives the chat format, the limits and one of the models; `load` gives it new weights.
        reference: the other model.
        mixture: m, from 0 (the policy) to 1 (the reference).

    Raises:
        SawyerError: m is none, or the vocabularies differ in size.
    """

    def __init__(self, policy: TorchEngine, reference: TorchEngine, mixture: float) -> None:
        if not 0 <= mixture <= 1:
            raise SawyerError(f"a mixture must be from 0 (the policy) to 1 (the reference), not {mixture:g}")
        if policy.vocabulary != reference.vocabulary:
            raise SawyerError(
                f"two models are mixed token by token, but one has {policy.vocabulary} tokens and the other "
                f"{reference.vocabulary}: take a reference with the policy's tokenizer"
            )
        self.policy, self.reference, self.mixture = policy, reference, mixture
        self._width = 0

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the policy new weights."""
        self.policy.load(weights)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        keep_failed: bool = False,
    ) -> list[list[Completion]]:
        """As `TorchEngine.generate`; log-probs are under the mixture.

        Raises:
            SawyerError: as there.
        """
        with self.reference.ready():
            return self.policy.generate(
                prompts, sampling, n, seed=seed, progress=progress, keep_failed=keep_failed, decoder=self
            )

    def prefill(
        self, prompts: Sequence[Sequence[int]], slots: Sequence[tuple[int, ...]], cache: KVCache
    ) -> list[torch.Tensor]:
        """The hidden states of both models side by side, `[T, 2D]` of each prompt."""
        own = self.policy.prefill(prompts, slots, cache)
        theirs = self.reference.prefill(prompts, slots, cache.beside)
        return [self._joined(*pair) for pair in zip(own, theirs, strict=True)]

    def decode(self, ids: Sequence[int], positions: Sequence[int], cache: KVCache) -> torch.Tensor:
        """The hidden states of both models side by side, `[A, 2D]`."""
        return self._joined(
            self.policy.decode(ids, positions, cache), self.reference.decode(ids, positions, cache.beside)
        )

    def logits(self, hidden_A_2D: torch.Tensor) -> torch.Tensor:
        """Those of the mixture, `[A, V]`, in float32."""
        own = self.policy.logits(hidden_A_2D[:, : self._width].contiguous())
        theirs = self.reference.logits(hidden_A_2D[:, self._width :].contiguous())
        return torch.lerp(own.float(), theirs.float(), self.mixture)

    def _joined(self, own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        self._width = own.shape[-1]
        return torch.cat([own, theirs], dim=-1)
