"""What is read of completions equals plain forward passes, one sequence at a time."""

import pytest
import torch

from sawyer.data.records import Prompt, user
from sawyer.feedback.likelihood import Reader
from sawyer.models.load import load_policy
from sawyer.rollout.protocol import Completion
from sawyer.trees.embed import mean_states
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree

PROMPTS = [Prompt((user("What is a river?"),)), Prompt((user("And a town?"),))]
IDS = [[(40, 50, 60, 2), (7, 8, 2)], [(30, 2)]]
ANSWERS = [[Completion(ids, (0.0,) * len(ids), "", True) for ids in own] for own in IDS]


@torch.no_grad()
def plainly(folder, prompt_ids, ids):
    """Sum of log-probs, mean entropy, and mean hidden state of the positions that predict the tokens."""
    model = load_policy(folder)
    whole = torch.tensor([[*prompt_ids, *ids]])
    out = model(whole, output_hidden_states=True)
    places = slice(len(prompt_ids) - 1, whole.shape[1] - 1)
    logp = torch.log_softmax(out.logits[0, places].float(), -1)
    picked = logp.gather(1, torch.tensor(ids)[:, None]).sum()
    return float(picked), float(-(logp.exp() * logp).sum(-1).mean()), out.hidden_states[-1][0, places].mean(0)


def test_readings_are_those_of_plain_passes(saved_policy, tiny_chat):
    own, other = saved_policy("llama", 0), saved_policy("llama", 1)
    found, why = Reader(other).read(own, PROMPTS, ANSWERS)
    assert why is None
    for prompt, ids_of_prompt, readings in zip(PROMPTS, IDS, found, strict=True):
        for ids, one in zip(ids_of_prompt, readings, strict=True):
            prompt_ids = tiny_chat.prompt_ids(prompt.prompt)
            logp, entropy, _ = plainly(own, prompt_ids, ids)
            reference, _, _ = plainly(other, prompt_ids, ids)
            assert (one.logp, one.entropy) == pytest.approx((logp, entropy), abs=1e-4)
            assert one.log_ratio == pytest.approx(logp - reference, abs=1e-4)
            assert one.tokens == len(ids)


def test_the_reference_itself_is_at_no_distance(saved_policy):
    own = saved_policy("llama", 0)
    found, _ = Reader(own).read(own, PROMPTS, ANSWERS)
    assert {one.log_ratio for readings in found for one in readings} == {0.0}


def test_without_a_reference_there_is_no_ratio(saved_policy):
    found, why = Reader(None).read(saved_policy("llama", 0), PROMPTS, ANSWERS)
    assert why is None
    assert found[0][0].log_ratio is None
    assert found[0][0].entropy > 0


def test_a_reference_of_a_shorter_context_reads_nothing(saved_policy, monkeypatch):
    monkeypatch.setattr(TreePolicy, "context", 5)
    trees = [TokenTree((1, 2, 3), [(4, 5, 6)])]
    reader = Reader(saved_policy("llama", 1))
    why = reader.unreadable(saved_policy("llama", 0), trees)
    assert why == "an answer with its prompt is longer than the 5 tokens that the reference reads"


def test_mean_states_are_those_of_plain_passes(saved_policy, tiny_chat):
    folder = saved_policy("llama", 0)
    prompt_ids = tiny_chat.prompt_ids(PROMPTS[0].prompt)
    found = mean_states(TreePolicy(load_policy(folder)), [TokenTree(prompt_ids, IDS[0]), TokenTree(prompt_ids, IDS[1])])
    assert [len(own) for own in found] == [2, 1]
    for ids, state_D in zip([*IDS[0], *IDS[1]], [one for own in found for one in own], strict=True):
        torch.testing.assert_close(state_D, plainly(folder, prompt_ids, ids)[2], atol=1e-4, rtol=1e-4)


@pytest.fixture
def tiny_chat(tiny_tokenizer):
    from sawyer.data.chat import ChatFormat

    return ChatFormat(tiny_tokenizer)
