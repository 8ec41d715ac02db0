"""Which tokens may be drawn at all: top-k, nucleus, min-p and typical sampling.

Legend: B sequences, V vocabulary, K candidates that a filter leaves.

Each filter is applied to what the one before has left, renormalised, in the order top-k, top-p, min-p, typical, after
the temperature: the order of transformers. The definitions are those of transformers' warpers but for ties: where
tokens of exactly equal logit straddle the border of top-k, transformers keeps all of them and we keep k.
"""

from __future__ import annotations

import math

import torch

from sawyer.rollout.sampling import Sampling

_FEW = 1024  # candidates tried first; the whole vocabulary is sorted only where they are too few


def filters(sampling: Sampling) -> bool:
    """Whether any token may be dropped."""
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0 or sampling.typical_p < 1


def keep(logits_B_V: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits that the filters leave: those of K candidates with their ids, or of the whole vocabulary.

    What is dropped has the logit -inf.

    Args:
        logits_B_V: float32, divided by the temperature.

    Returns:
        kept_B_K (float32), ids_B_K (int64), or kept_B_V and None.
    """
    kept, ids = logits_B_V, None
    if sampling.top_k > 0 or sampling.top_p < 1:
        kept, ids = keep_candidates(kept, sampling.top_k, sampling.top_p)
    if sampling.min_p > 0:
        kept = keep_min_p(kept, sampling.min_p)
    if sampling.typical_p < 1:
        kept = keep_typical(kept, sampling.typical_p)
    return kept, ids


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
    guess = min(limit, _FEW)
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


def keep_min_p(logits_B_K: torch.Tensor, min_p: float) -> torch.Tensor:
    """Keep the tokens at least `min_p` times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082).

    p(v) >= min_p * p_max says the same as x(v) >= x_max + log(min_p), so no softmax is needed.

    Args:
        min_p: above 0.
    """
    border_B_1 = logits_B_K.amax(-1, keepdim=True) + math.log(min_p)
    return logits_B_K.masked_fill(logits_B_K < border_B_1, float("-inf"))


def keep_typical(logits_B_K: torch.Tensor, typical_p: float) -> torch.Tensor:
    """Locally typical sampling (Meister et al. 2022, arXiv 2202.00666, equation 11).

    Keep the tokens whose surprise -log p is nearest the entropy of the distribution: the smallest set of them whose
    probability reaches `typical_p`, and what is as near as the farthest of these.
    """
    logp_B_K = logits_B_K.log_softmax(-1)
    prob_B_K = logp_B_K.exp()
    entropy_B_1 = -(prob_B_K * logp_B_K).nan_to_num(nan=0.0).sum(-1, keepdim=True)  # 0 * -inf counts nothing
    distance_B_K = (logp_B_K + entropy_B_1).abs()
    size = logp_B_K.shape[-1]
    border_B_1, reached_B = _typical_border(distance_B_K, prob_B_K, typical_p, min(size, _FEW))
    if size > _FEW and len(flat := (reached_B < typical_p).nonzero()[:, 0]):  # these rows need more tokens
        border_B_1[flat], _ = _typical_border(distance_B_K[flat], prob_B_K[flat], typical_p, size)
    return logits_B_K.masked_fill(distance_B_K > border_B_1, float("-inf"))


def _typical_border(
    distance_B_K: torch.Tensor, prob_B_K: torch.Tensor, typical_p: float, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The distance at which the nearest `count` tokens reach `typical_p`, and the probability of all of these."""
    nearest_B_M, index_B_M = distance_B_K.topk(count, largest=False, sorted=True)
    until_B_M = prob_B_K.gather(1, index_B_M).cumsum(-1)
    last_B_1 = (until_B_M < typical_p).sum(-1, keepdim=True).clamp_max(count - 1)
    return nearest_B_M.gather(1, last_B_1), until_B_M[:, -1]
