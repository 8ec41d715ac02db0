"""A scorer reads with the template it was trained with."""

import pytest

from sawyer.data.chat import TEMPLATES
from sawyer.errors import SawyerError
from sawyer.feedback.implicit import ImplicitReward
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.template import check_reading, scoring_format
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model


@pytest.fixture
def untaught(saved_policy, tiny_tokenizer, tmp_path):
    """A model whose tokenizer has no chat template."""
    source, folder = saved_policy("llama"), tmp_path / "untaught"
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = None
    model = load_sequence_classifier(source, fresh_head=True, seed=1)
    return str(save_model(model, tokenizer, folder))


def test_the_models_own_template_is_taken(saved_policy):
    policy = saved_policy("llama")
    own = load_tokenizer(policy).chat_template
    for asked in (None, own):
        assert scoring_format(policy, asked).template == own


def test_a_template_that_writes_the_same_tokens_is_the_same(saved_policy):
    assert scoring_format(saved_policy("llama"), "chatml").template == TEMPLATES["chatml"]


def test_another_template_is_refused_unless_forced(saved_policy):
    policy = saved_policy("llama")
    with pytest.raises(SawyerError, match="was trained with another chat template") as error:
        scoring_format(policy, "plain")
    assert policy in str(error.value)
    assert scoring_format(policy, "plain", force=True).template == TEMPLATES["plain"]


def test_a_model_without_a_template_takes_any(untaught):
    assert scoring_format(untaught).template == TEMPLATES["plain"]
    assert scoring_format(untaught, "chatml").template == TEMPLATES["chatml"]


def test_an_encoder_reads_without(saved_encoder):
    encoder = saved_encoder("roberta")
    assert check_reading(encoder, None) is None
    with pytest.raises(SawyerError, match="is an encoder, which reads texts without a chat template"):
        check_reading(encoder, "plain", force=True)


@pytest.mark.parametrize("scorer", [PairwiseModel, ImplicitReward])
def test_every_scorer_of_a_policy_asks_for_force(scorer, saved_policy):
    policy = saved_policy("llama")
    other = load_tokenizer(policy).chat_template.replace("<|im_start|>", "<|im_start|>the ")
    with pytest.raises(SawyerError, match="was trained with another chat template"):
        scorer(policy, chat_template=other)
    assert scorer(policy, chat_template=other, force=True).chat.template == other
