"""Filters against slow references, and against transformers' own warpers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from sawyer.rollout import filters
from sawyer.rollout.filters import keep, keep_candidates, keep_min_p, keep_typical
from sawyer.rollout.sampling import Sampling
from tests.rollout.slow import log_softmax, slow_kept

# multiples of a half: many ties, exact in float32
tied_logits = st.lists(st.integers(-9, 9).map(lambda i: i / 2), min_size=1, max_size=30)
shares = st.floats(0.01, 0.99)


def kept_logits(logits, kept, ids):
    """The logits of what was kept, ascending, after a look that they are those of distinct tokens."""
    found = [(x, i) for x, i in zip(kept[0].tolist(), ids[0].tolist(), strict=True) if x > -math.inf]
    assert all(logits[i] == x for x, i in found)
    assert len({i for _, i in found}) == len(found)
    return sorted(x for x, _ in found)


@settings(max_examples=80, deadline=None)
@given(logits=tied_logits, k=st.integers(1, 35))
def test_top_k_keeps_the_k_largest(logits, k):
    kept, ids = keep_candidates(torch.tensor([logits]), k, 1.0)
    assert kept_logits(logits, kept, ids) == sorted(logits)[-k:]


@settings(max_examples=80, deadline=None)
@given(logits=tied_logits, k=st.integers(0, 35), p=shares)
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, k, p):
    found = kept_logits(logits, *keep_candidates(torch.tensor([logits]), k, p))
    fewest, most = (len(slow_kept(logits, Sampling(top_k=k, top_p=p + rounding))) for rounding in (-1e-5, 1e-5))
    assert fewest <= len(found) <= most
    assert found == sorted(logits)[-len(found) :]


@settings(max_examples=80, deadline=None)
@given(logits=tied_logits, p=st.one_of(shares, st.just(1.0)))
def test_min_p_compares_with_the_likeliest(logits, p):
    kept = keep_min_p(torch.tensor([logits]), p)[0]
    for logit, after in zip(logits, kept.tolist(), strict=True):
        ratio = math.exp(logit - max(logits)) / p
        assert after == logit or (after == -math.inf and ratio < 1 + 1e-5)
        assert after == -math.inf or ratio > 1 - 1e-5


@settings(max_examples=80, deadline=None)
@given(logits=tied_logits, p=shares)
def test_typical_keeps_the_smallest_set_nearest_the_entropy_and_its_ties(logits, p):
    logp = log_softmax(logits)
    entropy = -(np.exp(logp) * logp).sum()
    distance = np.abs(-logp - entropy)
    kept = keep_typical(torch.tensor([logits]), p)[0].isfinite().numpy()
    borders = [
        max(distance[i] for i in slow_kept(logits, Sampling(typical_p=p + rounding))) for rounding in (-1e-5, 1e-5)
    ]
    assert kept[distance < borders[0] - 1e-5].all()
    assert not kept[distance > borders[1] + 1e-5].any()


def masked(kept, ids, vocabulary):
    if ids is None:
        return kept
    return torch.full((len(kept), vocabulary), -torch.inf).scatter(1, ids, kept)


@pytest.mark.parametrize("vocabulary", [7, 500, 3000])
@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
@pytest.mark.parametrize(
    ("sampling", "warpers"),
    [
        (Sampling(top_k=5), [hf.TopKLogitsWarper(5)]),
        (Sampling(top_p=0.8), [hf.TopPLogitsWarper(0.8)]),
        (Sampling(min_p=0.2), [hf.MinPLogitsWarper(0.2)]),
        (Sampling(typical_p=0.3), [hf.TypicalLogitsWarper(0.3)]),
        (Sampling(typical_p=0.95), [hf.TypicalLogitsWarper(0.95)]),
        (Sampling(top_k=40, typical_p=0.6), [hf.TopKLogitsWarper(40), hf.TypicalLogitsWarper(0.6)]),
        (
            Sampling(top_k=60, top_p=0.9, min_p=0.3),
            [hf.TopKLogitsWarper(60), hf.TopPLogitsWarper(0.9), hf.MinPLogitsWarper(0.3)],
        ),
    ],
    ids=lambda v: v.model_dump_json(exclude_defaults=True) if isinstance(v, Sampling) else "",
)
def test_filters_are_those_of_transformers(sampling, warpers, spread, vocabulary):
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(1)) * spread
    expected = hf.LogitsProcessorList(warpers)(torch.zeros(4, 1, dtype=torch.long), logits)
    torch.testing.assert_close(masked(*keep(logits, sampling), vocabulary), expected, rtol=0, atol=0)


def test_a_flat_typical_set_is_larger_than_the_first_guess(monkeypatch):
    logits = torch.randn(3, 900, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.1], [1.0], [9.0]])
    whole = keep_typical(logits, 0.9)
    monkeypatch.setattr(filters, "_FEW", 20)
    assert torch.equal(keep_typical(logits, 0.9), whole)
    assert whole.isfinite().sum(-1)[0] > 500


def test_what_is_off_does_no_work():
    logits = torch.randn(2, 9)
    kept, ids = keep(logits, Sampling())
    assert kept is logits
    assert ids is None
