"""Nash-MD's objective on packed trees against plain passes, one answer at a time."""

import pytest
import torch

from sawyer.train.nash import nash
from sawyer.train.preference import REFERENCE, SCORE
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree, TreeBatch

ANSWERS = [([5, 6, 7], [8, 9, 10, 11], 0.9, -20.0), ([12, 13], [14], 0.2, -4.0), ([15] * 6, [16, 17], 0.5, -9.0)]


def test_packed_answers_have_the_loss_of_plain_passes(tiny_policy):
    trees = [TokenTree(p, [y], values={SCORE: [won], REFERENCE: [ref]}) for p, y, won, ref in ANSWERS]
    packed = TreePolicy(tiny_policy("llama"))
    terms = nash(beta=0.3).terms(packed, TreeBatch.of(trees))
    terms["loss"].backward()

    plain = tiny_policy("llama")
    loss, kl = torch.zeros(()), 0.0
    for prompt, answer, won, reference in ANSWERS:
        logits = plain(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
        loss = loss - (won - 0.5 - 0.3 * (logp.item() - reference)) * logp
        kl += logp.item() - reference
    loss.backward()
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert terms["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert terms["preference"].item() == pytest.approx(1.6)
    theirs = dict(plain.named_parameters())
    for name, weight in packed.core.named_parameters():
        assert torch.allclose(weight.grad, theirs[name].grad, atol=1e-4), name
