"""Stage `multi_objective`: from ratings and pairs to a folder that scores, and says why."""

import pytest
import torch
from transformers import AutoModel

from sawyer.data.records import Conversation, Prompt, assistant, user
from sawyer.errors import SawyerError
from sawyer.feedback.multi_objective import MultiObjectiveReward, open_reward_model
from sawyer.feedback.protocol import Feedback, prefer
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.heads import attach_fresh_head
from sawyer.models.load import load_policy, load_tokenizer
from sawyer.models.locate import is_reward_model
from sawyer.models.save import save_model
from sawyer.pipeline.stages.multi_objective import STAGE

SMALL = {
    "hidden": 16,
    "layers": 1,
    "temperature": 1.0,
    "steps": 40,
    "learning_rate": 1e-2,
    "batch_size": 16,
    "max_tokens": 128,
}
ASKED = [Prompt("What is a river? Number 99."), Prompt("What is a town? Number 98.")]
ANSWERS = [("It is well thank you.", "No no at all"), ("It is well and so thank you.", "No no no at all")]


@pytest.fixture
def ratings(pairs):
    """Polite answers are rated high and clear; `clear` is not always known."""
    made = []
    for i, pair in enumerate(pairs(80)):
        text = pair.completions[i % 2]
        attributes = {"polite": 5 - 4 * (i % 2) + 0.1 * (i % 3), "clear": None if i % 5 == 0 else len(text) / 10}
        made.append(Conversation((*pair.prompt, assistant(text)), {"attributes": attributes}))
    return made


@pytest.fixture
def trained(ratings, pairs, saved_policy, run_stage):
    data = {"ratings": {"train": ratings}, "pairs": {"train": pairs(32), "test": pairs(12, first=100)}}
    return run_stage(STAGE, saved_policy(), data, ratings="ratings", data="pairs", validation="test", **SMALL)


def test_it_rates_weighs_and_prefers(trained):
    _, figures = trained
    assert set(figures["attributes"]) == {"clear", "polite"}
    for own in figures["attributes"].values():
        assert abs(own["length_spearman_after"]) <= max(0.03, abs(own["length_spearman_before"]))
        assert {"n", "alpha", "held_out_r2", "mean_weight"} <= own.keys()
    assert figures["attributes"]["clear"]["n"] == 64
    assert figures["attributes"]["polite"]["held_out_r2"] > 0.5
    assert sum(own["mean_weight"] for own in figures["attributes"].values()) == pytest.approx(1)
    assert figures["held_out"]["accuracy"]["mean"] > 0.8


def test_the_folder_scores_as_it_was_measured(trained, pairs):
    folder, figures = trained
    reward = open_reward_model(str(folder))
    assert isinstance(reward, MultiObjectiveReward)
    assert isinstance(reward, Feedback)
    assert is_reward_model(folder)
    records = pairs(12, 100)
    scores = reward.score([Prompt(r.prompt) for r in records], [r.completions for r in records])
    assert sum(a - b for a, b in scores) / 12 == pytest.approx(figures["held_out"]["margin"]["mean"], abs=1e-4)


def test_scores_depend_on_nothing_else_and_swap_to_one_minus_p(trained):
    reward = MultiObjectiveReward(str(trained[0]))
    together = reward.score(ASKED, ANSWERS)
    reward.token_budget = 16
    for prompt, own, scores in zip(ASKED, ANSWERS, together, strict=True):
        assert [reward.score([prompt], [[text]])[0][0] for text in own] == pytest.approx(scores, abs=1e-4)
    forth, back = prefer(reward, ASKED, ANSWERS), prefer(reward, ASKED, [(b, a) for a, b in ANSWERS])
    assert [p + q for p, q in zip(forth, back, strict=True)] == pytest.approx([1, 1], abs=1e-6)


def test_a_text_that_is_too_long_loses_its_beginning_and_is_counted(trained):
    folder = str(trained[0])
    reward = open_reward_model(folder, max_tokens=120)
    (scores,) = reward.score([Prompt("What is a river? " * 40)], [["Water.", "It is well thank you."]])
    assert reward.truncated == 2
    assert len(scores) == 2
    whole = open_reward_model(folder).score(ASKED, ANSWERS)
    assert reward.score(ASKED, ANSWERS)[0] == pytest.approx(whole[0], abs=1e-4)
    assert reward.truncated == 2


def test_a_breakdown_adds_up(trained):
    reward = MultiObjectiveReward(str(trained[0]))
    found = reward.breakdown(ASKED[0], ANSWERS[0][0])
    assert found["reward"] == pytest.approx(reward.score(ASKED[:1], [ANSWERS[0][:1]])[0][0], abs=1e-5)
    assert sum(own["adds"] for own in found["attributes"].values()) == pytest.approx(found["reward"], abs=1e-5)
    assert sum(own["weight"] for own in found["attributes"].values()) == pytest.approx(1)
    polite, rude = (reward.breakdown(ASKED[0], text)["attributes"]["polite"]["rating"] for text in ANSWERS[0])
    assert polite == pytest.approx(5, abs=1.5)
    assert rude == pytest.approx(1, abs=1.5)


def test_the_model_it_stands_on_is_untouched_and_has_no_head(trained, saved_policy):
    folder, _ = trained
    body = AutoModel.from_pretrained(folder)
    for name, tensor in load_policy(saved_policy()).base_model.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor)
    with pytest.raises(SawyerError, match="not a reward model"):
        RewardModel(str(folder))


def test_a_plain_reward_model_is_opened_as_one(saved_policy, tmp_path):
    source = saved_policy()
    folder = save_model(attach_fresh_head(load_policy(source)), load_tokenizer(source), tmp_path / "reward")
    assert isinstance(open_reward_model(str(folder)), RewardModel)


def test_ratings_without_attributes_are_one_sentence(pairs, saved_policy, run_stage):
    talks = [Conversation((user(f"Number {i}"), assistant("Yes."))) for i in range(20)]
    data = {"ratings": {"train": talks}, "pairs": {"train": pairs(4)}}
    with pytest.raises(SawyerError, match="no conversation has ratings"):
        run_stage(STAGE, saved_policy(), data, ratings="ratings", data="pairs", **SMALL)
