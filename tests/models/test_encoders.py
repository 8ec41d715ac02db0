"""Encoders: told from decoders, given fresh heads that depend on the seed only, saved and read again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import prefer
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.encoders import is_encoder
from sawyer.models.heads import keep_output
from sawyer.models.load import load_bi_encoder, load_sequence_classifier, load_tokenizer, model_kind
from sawyer.models.locate import is_reward_model
from sawyer.models.save import save_model
from tests.conftest import ARCHITECTURES, ENCODERS, tiny_config

IDS = torch.tensor([[0, 9, 40, 77, 2]])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_decoders_are_no_encoders(arch, saved_policy, tiny_tokenizer):
    assert not is_encoder(tiny_config(arch, tiny_tokenizer))
    assert model_kind(saved_policy(arch)) == "decoder"


@pytest.mark.parametrize("arch", ENCODERS)
def test_encoders_are_known_by_their_folder(arch, saved_encoder, encoder_tokenizer, tmp_path):
    folder = saved_encoder(arch)
    assert model_kind(folder) == "cross"
    saved = save_model(load_bi_encoder(folder, fresh_heads=True), encoder_tokenizer(arch), tmp_path / "bi")
    assert model_kind(str(saved)) == "bi"


@pytest.mark.parametrize("load", [load_sequence_classifier, load_bi_encoder])
@pytest.mark.parametrize("arch", ENCODERS)
def test_a_fresh_head_depends_on_its_seed_only(load, arch, saved_encoder):
    fresh = "fresh_head" if load is load_sequence_classifier else "fresh_heads"
    folder = saved_encoder(arch)
    first = load(folder, seed=3, **{fresh: True}).state_dict()
    torch.rand(7)
    again = load(folder, seed=3, **{fresh: True}).state_dict()
    other = load(folder, seed=4, **{fresh: True}).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.parametrize("arch", ENCODERS)
def test_the_body_is_the_one_that_was_trained(arch, saved_encoder):
    folder = saved_encoder(arch)
    body = AutoModel.from_pretrained(folder)(input_ids=IDS).last_hidden_state
    for model in (
        load_sequence_classifier(folder, fresh_head=True).base_model,
        load_bi_encoder(folder, fresh_heads=True).body,
    ):
        torch.testing.assert_close(model(input_ids=IDS).last_hidden_state, body)


@pytest.mark.parametrize("arch", ENCODERS)
def test_a_saved_bi_encoder_is_read_again_and_its_encoder_by_plain_transformers(
    arch, saved_encoder, encoder_tokenizer, tmp_path
):
    model = load_bi_encoder(saved_encoder(arch), fresh_heads=True, seed=2)
    folder = save_model(model, encoder_tokenizer(arch), tmp_path / "bi")
    again = load_bi_encoder(str(folder))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(
        AutoModel.from_pretrained(folder)(input_ids=IDS).last_hidden_state, model.body(input_ids=IDS).last_hidden_state
    )


def test_an_encoder_without_a_head_is_no_reward_model(saved_encoder):
    folder = saved_encoder("roberta")
    with pytest.raises(SawyerError, match="not a reward model"):
        load_sequence_classifier(folder)
    with pytest.raises(SawyerError, match="no bi-encoder"):
        load_bi_encoder(folder)


def test_an_encoder_that_lacks_weights_is_refused_not_invented(saved_encoder):
    folder = saved_encoder("roberta")
    file = f"{folder}/model.safetensors"
    weights = load_file(file)
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SawyerError, match="lack 1 of the tensors"):
        load_sequence_classifier(folder, fresh_head=True)


@pytest.mark.parametrize("arch", ["llama", "roberta", "bert"])
def test_one_output_can_be_kept_of_two(arch, saved_policy, saved_encoder, tmp_path):
    source = saved_policy(arch) if arch == "llama" else saved_encoder(arch)
    two = load_sequence_classifier(source, num_labels=2, fresh_head=True)
    both = two(input_ids=IDS).logits
    keep_output(two, 0)
    folder = save_model(two, load_tokenizer(source), tmp_path / "kept")
    for again in (load_sequence_classifier(str(folder)), AutoModelForSequenceClassification.from_pretrained(folder)):
        torch.testing.assert_close(again(input_ids=IDS).logits, both[:, :1])


ASKED = [Prompt("What is a river?"), Prompt("Name a bridge.")]
PAIRS = [("Water.", "A long walk in the town."), ("The old one.", "No")]


@pytest.mark.parametrize("kind", ["cross", "bi"])
@pytest.mark.parametrize("arch", ENCODERS)
def test_reward_models_of_both_kinds_are_feedback(kind, arch, saved_encoder, encoder_tokenizer, tmp_path):
    source = saved_encoder(arch)
    model = (
        load_bi_encoder(source, fresh_heads=True, seed=2)
        if kind == "bi"
        else load_sequence_classifier(source, fresh_head=True, seed=2)
    )
    folder = save_model(model, encoder_tokenizer(arch), tmp_path / "reward")
    assert is_reward_model(folder)
    assert not is_reward_model(Path(source))
    reward = RewardModel(str(folder))
    together = reward.score(ASKED, PAIRS)
    for prompt, own, scores in zip(ASKED, PAIRS, together, strict=True):
        assert [reward.score([prompt], [[text]])[0][0] for text in own] == pytest.approx(scores, abs=1e-5)
    forth, back = prefer(reward, ASKED, PAIRS), prefer(reward, ASKED, [(b, a) for a, b in PAIRS])
    assert [p + q for p, q in zip(forth, back, strict=True)] == pytest.approx([1, 1], abs=1e-6)
    if kind == "cross":
        plain, tokenizer = (
            AutoModelForSequenceClassification.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        with torch.no_grad():
            inputs = tokenizer(ASKED[0].text, PAIRS[0][1], return_tensors="pt")
            assert plain(**inputs).logits.item() == pytest.approx(together[0][1], abs=1e-5)


@pytest.mark.parametrize("kind", ["cross", "bi"])
def test_what_an_encoder_cuts_is_counted(kind, saved_encoder, encoder_tokenizer, tmp_path):
    source = saved_encoder("roberta")
    model = (
        load_bi_encoder(source, fresh_heads=True) if kind == "bi" else load_sequence_classifier(source, fresh_head=True)
    )
    folder = str(save_model(model, encoder_tokenizer("roberta"), tmp_path / "reward"))
    reward = RewardModel(folder, max_tokens=16)
    long = "A very long answer about rivers of ice."
    reward.score([Prompt(long), Prompt("Why?")], [[long, "No"], ["No"]])
    assert reward.form.max_tokens == 16
    assert reward.truncated == 2
    reward.score([Prompt("Why?")], [[long]])
    assert reward.truncated == 3
    assert RewardModel(folder, max_tokens=10_000).form.max_tokens == 128
    with pytest.raises(SawyerError, match="is an encoder, which reads texts without a chat template"):
        RewardModel(folder, chat_template="plain")
