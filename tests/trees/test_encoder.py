"""Encoders over trees give what plain transformers gives a prompt with one completion, whatever shares a row."""

import pytest
import torch

from sawyer.data.pair_format import PairFormat
from sawyer.data.records import user
from sawyer.errors import SawyerError
from sawyer.journal import Silent
from sawyer.models.load import load_bi_encoder, load_sequence_classifier, load_tokenizer
from sawyer.train import objectives
from sawyer.train.loop import measure, train
from sawyer.train.settings import OptimizerSettings
from sawyer.trees.build import encoder_tree
from sawyer.trees.encoder import BiEncoderReward, CrossEncoderReward
from sawyer.trees.score import score_trees
from sawyer.trees.tree import TokenTree, TreeBatch
from tests.conftest import ENCODERS

ASKED = ["What is a river?", "Name a bridge.", "Why?"]
ANSWERS = [
    ["Water.", "A long walk in the town."],
    ["The old one.", "No", "I am well, thank you, and you?"],
    ["Because"],
]


def trees(form):
    return [encoder_tree(form, (user(q),), own) for q, own in zip(ASKED, ANSWERS, strict=True)]


def cross(folder):
    model = CrossEncoderReward(load_sequence_classifier(folder, fresh_head=True, seed=1))
    return model.eval(), PairFormat(load_tokenizer(folder), 128)


def bi(folder):
    return BiEncoderReward(load_bi_encoder(folder, fresh_heads=True, seed=1)).eval(), PairFormat(
        load_tokenizer(folder), 128, apart=True
    )


@pytest.mark.parametrize("arch", ENCODERS)
def test_a_cross_encoder_scores_as_plain_transformers_does(arch, saved_encoder):
    folder = saved_encoder(arch)
    model, form = cross(folder)
    plain = load_sequence_classifier(folder, fresh_head=True, seed=1)
    found = score_trees(model, trees(form))
    for question, own, scores in zip(ASKED, ANSWERS, found, strict=True):
        for text, score in zip(own, scores, strict=True):
            inputs = form.tokenizer(question, text, return_tensors="pt")
            with torch.no_grad():
                assert score == pytest.approx(plain(**inputs).logits.item(), abs=1e-5)


def test_a_bi_encoders_score_is_the_dot_product_of_mean_embeddings(saved_encoder):
    folder = saved_encoder("roberta")
    model, form = bi(folder)
    plain = load_bi_encoder(folder, fresh_heads=True, seed=1)

    def embedding(text, head):
        with torch.no_grad():
            return head(plain.body(**form.tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0))

    found = score_trees(model, trees(form))
    for question, own, scores in zip(ASKED, ANSWERS, found, strict=True):
        slow = [
            (embedding(question, plain.prompt_head) @ embedding(text, plain.completion_head)).item() / 32**0.5
            for text in own
        ]
        assert scores == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("kind", [cross, bi])
@pytest.mark.parametrize("arch", ENCODERS)
def test_scores_do_not_depend_on_what_shares_the_row(kind, arch, saved_encoder):
    model, form = kind(saved_encoder(arch))
    together = score_trees(model, trees(form), token_budget=4096)
    assert sum(map(tuple, score_trees(model, trees(form), token_budget=16)), ()) == pytest.approx(
        sum(map(tuple, together), ()), abs=1e-5
    )
    for question, own, scores in zip(ASKED, ANSWERS, together, strict=True):
        alone = [score_trees(model, [encoder_tree(form, (user(question),), [text])])[0][0] for text in own]
        assert alone == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", [cross, bi])
def test_encoders_learn_in_the_same_loop(kind, precision, checkpointing, saved_encoder):
    if checkpointing and precision == "bf16":
        pytest.skip("the same code")
    model, form = kind(saved_encoder("roberta"))
    pairs = [
        encoder_tree(form, (user(f"Number {i}?"),), ("well " * (2 + i % 3), "no " * (2 + i % 2))) for i in range(40)
    ]
    settings = OptimizerSettings(
        learning_rate=3e-3, batch_size=8, steps=25, token_budget=512, gradient_checkpointing=checkpointing
    )
    objective = objectives.reward_model(centring=0.01)
    before = measure(model, pairs[32:], objective, 512)
    train(model, pairs[:32], objective, settings, precision=precision, seed=0, journal=Silent(), title="toy")
    after = measure(model, pairs[32:], objective, 512)
    assert after["accuracy"] > 0.95
    assert after["loss"] < 0.4 < before["loss"]


@pytest.mark.parametrize("kind", [cross, bi])
def test_gradients_do_not_depend_on_packing(kind, saved_encoder):
    folder = saved_encoder("roberta")

    def gradients(budget):
        model, form = kind(folder)
        rows = trees(form)[:2] if budget is None else [[tree] for tree in trees(form)[:2]]
        for row in [rows] if budget is None else rows:
            objectives.reward_model().terms(model, TreeBatch.of(row))["loss"].backward()
        return {name: p.grad for name, p in model.named_parameters()}

    together, alone = gradients(None), gradients(16)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_context_leaves_out_the_places_that_positions_skip(saved_encoder):
    assert cross(saved_encoder("roberta"))[0].context == 128  # of 130 positions
    assert cross(saved_encoder("bert"))[0].context == 128
    model, _ = cross(saved_encoder("roberta"))
    model.check_context([TokenTree([0] * 100, [[5] * 28])])
    with pytest.raises(SawyerError, match="exceeds the context of 128"):
        model.check_context([TokenTree([0] * 100, [[5] * 29])])
    model, _ = bi(saved_encoder("roberta"))
    model.check_context([TokenTree([0] * 100, [[5] * 128])])
