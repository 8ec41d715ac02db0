import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.evals import diversity

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=7), min_size=2, max_size=5)


def slow_bleu(text, references):
    """Sentence BLEU-4 as its paper has it, order by order and reference by reference."""
    logs = []
    for n in range(1, 5):
        grams = Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
        matched = sum(
            min(count, max(Counter(tuple(r[i : i + n]) for i in range(len(r) - n + 1))[gram] for r in references))
            for gram, count in grams.items()
        )
        if n == 1 and matched == 0:
            return 0.0
        logs.append(math.log((matched or 0.1) / max(1, len(text) - n + 1)))
    nearest = min((abs(len(r) - len(text)), len(r)) for r in references)[1]
    return (1 if len(text) > nearest else math.exp(1 - nearest / len(text))) * math.exp(sum(logs) / 4)


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_self_bleu_is_the_mean_bleu_against_the_others(texts):
    said = [text for text in texts if text]
    found = diversity.self_bleu(texts)
    if len(said) < 2:
        assert found is None
        return
    slow = [slow_bleu(text, said[:i] + said[i + 1 :]) for i, text in enumerate(said)]
    assert found == pytest.approx(np.mean(slow), abs=1e-9)


def test_self_bleu_is_that_of_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    texts = [diversity.words(text) for text in (
        "The river runs through the old town and under the bridge.",
        "The river runs under the old bridge of the town.",
        "A glacier is a body of ice, and it moves.",
    )]  # fmt: skip
    smooth = bleu.SmoothingFunction().method1
    theirs = [
        bleu.sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=smooth) for i, text in enumerate(texts)
    ]
    assert diversity.self_bleu(texts) == pytest.approx(np.mean(theirs), abs=1e-9)


def test_equal_answers_have_a_self_bleu_of_one_and_strangers_of_none():
    assert diversity.self_bleu([list("abcdef")] * 3) == pytest.approx(1)
    assert diversity.self_bleu([list("abcd"), list("efgh")]) == 0
    assert diversity.self_bleu([list("abcd"), []]) is None


def test_dispersion_is_the_mean_distance_of_every_two():
    vectors = np.random.default_rng(0).normal(size=(5, 8))
    distances = [1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in combinations(vectors, 2)]
    assert diversity.dispersion(vectors) == pytest.approx(np.mean(distances))
    assert diversity.dispersion([[1.0, 2.0], [2.0, 4.0]]) == pytest.approx(0)
    assert diversity.dispersion([[1.0, 0.0], [-3.0, 0.0]]) == pytest.approx(2)
    assert diversity.dispersion([[1.0, 0.0]]) is None
    assert diversity.dispersion([[0.0, 0.0], [1.0, 0.0]]) == 1


def test_what_all_embeddings_share_is_taken_off():
    vectors = np.random.default_rng(1).normal(size=(6, 4)) + 100
    assert diversity.dispersion(vectors) < 0.01
    assert diversity.dispersion(diversity.centred(vectors)) > 0.5
