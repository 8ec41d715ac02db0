"""From logits to tokens: pure functions that filter a distribution and draw from it.

Legend: B sequences, V vocabulary, K candidates that a filter leaves.

A token is drawn by inverse CDF from a uniform number that the caller gives, so a draw depends on nothing but its own
row. `torch.multinomial` instead draws V exponentials per row: ten times as slow at 49,152 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sawyer.errors import SawyerError
from sawyer.rollout.protocol import Sampling

_BLOCK = 256  # the vocabulary is searched in two steps: which block, then which token of it
_NUCLEUS_GUESS = (
    1024  # candidates tried first for a nucleus; the whole vocabulary is sorted only where they are too few
)


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that contradict each other.

    Raises:
        SawyerError: says which.
    """
    if sampling.min_tokens > sampling.max_tokens:
        raise SawyerError(f"min_tokens {sampling.min_tokens} is more than max_tokens {sampling.max_tokens}")


def draw(
    logits_B_V: torch.Tensor,
    sampling: Sampling,
    uniform_B: torch.Tensor,
    *,
    forbidden_ids: Sequence[int] = (),
    forbid_B: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row, and its log-prob under the distribution it is drawn from.

    That distribution is softmax(logits / temperature) over the tokens that `forbidden_ids`, top-k and top-p leave, in
    this order, each applied to what the one before has left. At temperature 0 it is all on the most likely token, so
    the log-prob is 0. All arithmetic is in float32, whatever the type of the logits.

    Args:
        logits_B_V: the model's logits.
        uniform_B: numbers in [0, 1), float32.
        forbidden_ids: tokens of probability zero in the rows that `forbid_B` (bool) marks: end tokens come too early.

    Returns:
        token_B (int64), logp_B (float32)
    """
    logits_B_V = logits_B_V.float()
    if forbidden_ids and forbid_B is not None and bool(forbid_B.any()):
        columns = torch.tensor(sorted(forbidden_ids), device=logits_B_V.device)
        logits_B_V = logits_B_V.clone()
        logits_B_V[forbid_B.nonzero(), columns] = float("-inf")
    if sampling.temperature == 0:
        token_B = logits_B_V.argmax(-1)
        return token_B, torch.zeros_like(token_B, dtype=torch.float32)
    if sampling.temperature != 1:
        logits_B_V = logits_B_V / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1:
        return sample(logits_B_V, uniform_B)
    kept_B_K, ids_B_K = keep_candidates(logits_B_V, sampling.top_k, sampling.top_p)
    index_B, logp_B = sample(kept_B_K, uniform_B)
    return ids_B_K.gather(1, index_B[:, None])[:, 0], logp_B


def keep_candidates(logits_B_V: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and ids of the tokens that top-k and then top-p (Holtzman et al. 2020) leave, the likeliest first.

    The nucleus is the smallest set of likeliest tokens whose probability, renormalised after top-k, reaches `top_p`.
    Dropped candidates of a row have the logit -inf.

    Returns:
        kept_B_K (float32), ids_B_K (int64)
    """
    vocabulary = logits_B_V.shape[-1]
    limit = min(top_k or vocabulary, vocabulary)
    if top_p == 1:
        kept_B_K, ids_B_K = logits_B_V.topk(limit, sorted=True)
        return kept_B_K, ids_B_K
    guess = min(limit, _NUCLEUS_GUESS)
    kept_B_K, ids_B_K = logits_B_V.topk(guess, sorted=True)
    whole_B = (kept_B_K if top_k else logits_B_V).logsumexp(-1)
    if guess < limit:
        if top_k:
            whole_B = logits_B_V.topk(limit).values.logsumexp(-1)
        reached_B = (kept_B_K.logsumexp(-1) - whole_B).exp()
        if bool((reached_B <= top_p).any()):  # a flat distribution: its nucleus is larger than the guess
            kept_B_K, ids_B_K = logits_B_V.topk(limit, sorted=True)
    prob_B_K = (kept_B_K - whole_B[:, None]).exp()
    before_B_K = prob_B_K.cumsum(-1) - prob_B_K
    dropped_B_K = before_B_K >= top_p
    dropped_B_K[:, 0] = False
    return kept_B_K.masked_fill(dropped_B_K, float("-inf")), ids_B_K


def sample(logits_B_V: torch.Tensor, uniform_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from softmax(logits) by inverse CDF: the first token at which the cumulated probability exceeds `uniform`.

    One exponential and one sum per logit; the running sum is taken over blocks, then within the block that is hit. A
    token of probability zero is never drawn.

    Args:
        logits_B_V: float32, may hold -inf.
        uniform_B: numbers in [0, 1), float32.

    Returns:
        token_B (int64), logp_B (float32): log-softmax of the token.
    """
    batch, vocabulary = logits_B_V.shape
    blocks = -(-vocabulary // _BLOCK)
    peak_B_1 = logits_B_V.amax(-1, keepdim=True)
    if blocks * _BLOCK == vocabulary:
        mass_B_V = (logits_B_V - peak_B_1).exp_()
    else:
        mass_B_V = logits_B_V.new_zeros(batch, blocks * _BLOCK)
        torch.sub(logits_B_V, peak_B_1, out=mass_B_V[:, :vocabulary])
        mass_B_V[:, :vocabulary].exp_()
    mass_B_N_K = mass_B_V.view(batch, blocks, _BLOCK)
    until_B_N = mass_B_N_K.sum(-1).cumsum(-1)
    total_B_1 = until_B_N[:, -1:]
    block_B_1, rest_B_1 = _search(until_B_N, uniform_B[:, None] * total_B_1)
    inside_B_K = mass_B_N_K[torch.arange(batch, device=logits_B_V.device), block_B_1[:, 0]].cumsum(-1)
    index_B_1, _ = _search(inside_B_K, rest_B_1)
    token_B_1 = block_B_1 * _BLOCK + index_B_1
    logp_B_1 = logits_B_V.gather(1, token_B_1) - peak_B_1 - total_B_1.log()
    return token_B_1[:, 0], logp_B_1[:, 0]


def _search(until_B_N: torch.Tensor, target_B_1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first index whose running sum exceeds the target, and the part of the target that lies within it."""
    below_total_B_1 = torch.nextafter(until_B_N[:, -1:], torch.zeros_like(target_B_1))
    target_B_1 = torch.minimum(target_B_1, below_total_B_1)
    index_B_1 = torch.searchsorted(until_B_N, target_B_1, right=True)
    before_B_1 = until_B_N.gather(1, (index_B_1 - 1).clamp_min(0)) * (index_B_1 > 0)
    return index_B_1, target_B_1 - before_B_1
