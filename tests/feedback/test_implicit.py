"""The implicit reward of a policy equals its log-probs, taken one completion at a time."""

import math

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.implicit import ImplicitReward
from sawyer.feedback.protocol import prefer
from sawyer.models.load import load_policy, load_tokenizer

PROMPTS = [Prompt("What is a river?"), Prompt("Name a bridge.")]
COMPLETIONS = [["Water.", "A long walk in the town.", "I am well"], ["The old one.", "No"]]


def slow_logps(folder, prompt, completion):
    """Log-prob of every token of the completion and its end, from a plain forward pass over this one text."""
    chat = ChatFormat(load_tokenizer(folder))
    first, rest = chat.prompt_ids(prompt.prompt), chat.completion_ids(completion)
    with torch.no_grad():
        logits = load_policy(folder)(torch.tensor([first + rest])).logits[0].log_softmax(-1)
    return [float(logits[len(first) - 1 + i, token]) for i, token in enumerate(rest)]


def slow_rewards(score):
    return [[score(prompt, text) for text in own] for prompt, own in zip(PROMPTS, COMPLETIONS, strict=True)]


def flat(nested):
    return [value for own in nested for value in own]


def test_with_a_reference_it_is_the_difference_of_the_sums(saved_policy):
    policy, reference = saved_policy("llama", 1), saved_policy("llama", 2)
    wanted = slow_rewards(lambda p, c: sum(slow_logps(policy, p, c)) - sum(slow_logps(reference, p, c)))
    found = ImplicitReward(policy, reference).score(PROMPTS, COMPLETIONS)
    assert flat(found) == pytest.approx(flat(wanted), abs=1e-3)
    scaled = ImplicitReward(policy, reference, beta=0.1).score(PROMPTS, COMPLETIONS)
    assert flat(scaled) == pytest.approx([0.1 * value for value in flat(wanted)], abs=1e-4)


REDUCED = {
    "avg": lambda logps: sum(logps) / len(logps),
    "sum": sum,
    "norm": lambda logps: -math.sqrt(sum(logp**2 for logp in logps)),
}


@pytest.mark.parametrize("free", REDUCED)
def test_without_a_reference_it_is_what_is_asked(saved_policy, free):
    policy = saved_policy("qwen2")
    wanted = slow_rewards(lambda p, c: REDUCED[free](slow_logps(policy, p, c)))
    assert flat(ImplicitReward(policy, free=free).score(PROMPTS, COMPLETIONS)) == pytest.approx(flat(wanted), abs=1e-3)


def test_a_policy_that_is_its_reference_prefers_nothing(saved_policy):
    policy = saved_policy("llama")
    assert flat(ImplicitReward(policy, policy).score(PROMPTS, COMPLETIONS)) == [0.0] * 5


@pytest.mark.parametrize("options", [{"free": "avg"}, {"free": "norm"}, {"max_tokens": 24}])
def test_scores_do_not_depend_on_what_shares_the_batch(saved_policy, options):
    reward = ImplicitReward(saved_policy("llama"), **options)
    together = flat(reward.score(PROMPTS, COMPLETIONS))
    alone = [
        reward.score([prompt], [[text]])[0][0] for prompt, own in zip(PROMPTS, COMPLETIONS, strict=True) for text in own
    ]
    assert alone == pytest.approx(together, abs=1e-4)
    reward.token_budget = 16
    assert flat(reward.score(PROMPTS, COMPLETIONS)) == pytest.approx(together, abs=1e-4)


def test_swapping_a_pair_gives_one_minus_p(saved_policy):
    reward = ImplicitReward(saved_policy("llama", 1), saved_policy("llama", 2))
    pairs = [("Water.", "Stone."), ("Yes", "No")]
    forth = prefer(reward, PROMPTS, pairs)
    back = prefer(reward, PROMPTS, [(b, a) for a, b in pairs])
    assert [p + q for p, q in zip(forth, back, strict=True)] == pytest.approx([1, 1], abs=1e-6)


def test_a_long_text_loses_its_beginning_and_is_counted(saved_policy):
    reward = ImplicitReward(saved_policy("llama"), max_tokens=64)
    long = Prompt("word " * 100)
    scores = reward.score([long, PROMPTS[0]], [["Yes", "No"], ["a"]])
    assert all(math.isfinite(score) for score in flat(scores))
    assert reward.truncated == 2


def test_max_tokens_stays_within_the_context(saved_policy):
    assert ImplicitReward(saved_policy("llama"), max_tokens=100_000).max_tokens == 256


def test_mistakes(saved_policy, tmp_path):
    policy = saved_policy("llama")
    with pytest.raises(SawyerError, match="avg, sum, norm"):
        ImplicitReward(policy, free="median")
    other = tmp_path / "other"
    load_policy(policy).save_pretrained(other)
    tokenizer = load_tokenizer(policy)
    tokenizer.add_tokens(["novelty"])
    tokenizer.save_pretrained(other)
    with pytest.raises(SawyerError, match="different tokenizers"):
        ImplicitReward(policy, str(other))
