"""A reward model's scores depend on a prompt and a completion, and on nothing else."""

import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import prefer
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model

PROMPTS = [Prompt("What is a river?"), Prompt("Name a bridge."), Prompt("Why?")]
COMPLETIONS = [["Water.", "A long walk in the town.", "I am well"], ["The old one.", "No"], ["Because"]]


@pytest.fixture
def reward(saved_policy, tmp_path):
    source = saved_policy("llama")
    model = load_sequence_classifier(source, fresh_head=True, seed=1)
    folder = save_model(model, load_tokenizer(source), tmp_path / "reward")
    return RewardModel(str(folder))


def test_scores_do_not_depend_on_what_shares_the_batch(reward):
    together = reward.score(PROMPTS, COMPLETIONS)
    for prompt, own, scores in zip(PROMPTS, COMPLETIONS, together, strict=True):
        for text, score in zip(own, scores, strict=True):
            assert reward.score([prompt], [[text]])[0][0] == pytest.approx(score, abs=1e-5)
    reward.token_budget = 16
    alone = reward.score(PROMPTS, COMPLETIONS)
    assert [s for own in alone for s in own] == pytest.approx([s for own in together for s in own], abs=1e-5)


def test_swapping_a_pair_gives_one_minus_p(reward):
    pairs = [("Water.", "Stone."), ("Yes", "No"), ("a", "b")]
    forth = prefer(reward, PROMPTS, pairs)
    back = prefer(reward, PROMPTS, [(b, a) for a, b in pairs])
    assert [p + q for p, q in zip(forth, back, strict=True)] == pytest.approx([1, 1, 1], abs=1e-6)


def test_a_long_prompt_loses_its_beginning_and_is_counted(reward, tmp_path):
    cut = RewardModel(str(tmp_path / "reward"), max_tokens=64)
    long = "A long walk through the old town. " * 10
    scores = cut.score([Prompt(long), PROMPTS[0]], [["Water.", "Stone."], ["Water."]])
    assert cut.truncated == 2
    assert scores[1] == pytest.approx(reward.score(PROMPTS[:1], [["Water."]])[0], abs=1e-5)
    other = [Prompt("Another beginning. " + long)]
    assert cut.score(other, [["Water.", "Stone."]])[0] == pytest.approx(scores[0], abs=1e-5)


def test_another_chat_template_has_to_be_forced(reward, tmp_path):
    with pytest.raises(SawyerError, match="was trained with another chat template than the one given"):
        RewardModel(str(tmp_path / "reward"), chat_template="plain")
    plain = RewardModel(str(tmp_path / "reward"), chat_template="plain", force=True)
    assert plain.score(PROMPTS, COMPLETIONS) != reward.score(PROMPTS, COMPLETIONS)
