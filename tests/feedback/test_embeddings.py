"""Texts as mean hidden states, and which of them are alike."""

import numpy as np
import pytest
import torch

from sawyer.feedback.embeddings import Embedder, unlike
from sawyer.models.load import load_policy, load_sequence_classifier, load_tokenizer

TEXTS = ["The river runs.", "What is a glacier? Use at most 25 words.", "I", "The river runs through the old town."]


@pytest.mark.parametrize("arch", ["llama", "roberta"])
def test_a_text_is_the_mean_of_its_own_states_whatever_it_is_padded_to(arch, saved_policy, saved_encoder):
    name = saved_encoder(arch) if arch == "roberta" else saved_policy(arch)
    found = Embedder(name).embed(TEXTS)
    tokenizer = load_tokenizer(name)
    whole = load_sequence_classifier(name, fresh_head=True) if arch == "roberta" else load_policy(name)
    model = whole.base_model.eval()
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, alone.numpy(), atol=1e-5)


def test_what_points_the_same_way_beside_the_centre_is_a_repetition():
    centre = np.array([10.0, 0.0])
    kept = np.array([[10.0, 1.0]], dtype=np.float32)
    new = np.array([[10.0, 2.0], [11.0, 0.1], [11.0, 0.0], [9.0, -1.0]], dtype=np.float32)
    assert unlike(kept, new, centre, 0.9) == [1, 3]
    assert unlike(kept, new, np.zeros(2), 0.9) == []  # without a centre all point the same way
