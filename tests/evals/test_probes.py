"""Bad completions made from good ones."""

import random

import pytest

from sawyer.errors import SawyerError
from sawyer.evals import probes

GOOD = "A glacier is a body of ice. It moves slowly, under its own weight. Some are very old."
OTHERS = [GOOD, "Rivers carry water to the sea. They bend.", "Bridges span valleys and stand for centuries."]


@pytest.fixture
def rng():
    return random.Random(0)


def test_gibberish_keeps_words_punctuation_and_length(rng):
    text = probes.gibberish(GOOD, rng)
    assert text != GOOD
    assert [len(word) for word in text.split()] == [len(word) for word in GOOD.split()]
    assert [c for c in text if not c.isalpha()] == [c for c in GOOD if not c.isalpha()]
    assert text[0].isupper()
    letters = [(a, b) for a, b in zip(text, GOOD, strict=True) if b.isalpha()]
    assert all(a.lower() != b.lower() for a, b in letters), "every letter is another one"


def test_repeated_says_the_first_sentence_again_and_again(rng):
    text = probes.repeated(GOOD, rng)
    assert set(text.split(". ")) <= {"A glacier is a body of ice", "A glacier is a body of ice."}
    assert 0.5 < len(text) / len(GOOD) < 1.5
    assert probes.repeated("One sentence.", rng) == "One sentence. One sentence."


def test_truncated_is_a_beginning_without_an_end(rng):
    for _ in range(20):
        text = probes.truncated(GOOD, rng)
        assert GOOD.startswith(text)
        assert 1 / 4 < len(text.split()) / len(GOOD.split()) < 3 / 4
        assert text[-1].isalnum()


def test_order_swapped_has_the_same_sentences(rng):
    text = probes.order_swapped(GOOD, rng)
    assert text != GOOD
    assert sorted(text.split()) == sorted(GOOD.split())
    assert sorted(probes.order_swapped("only a few words", rng).split()) == ["a", "few", "only", "words"]


def test_what_a_text_does_not_allow_is_not_made(rng):
    assert probes.gibberish("1 + 1 = 2", rng) is None
    assert probes.order_swapped("no no no", rng) is None
    assert probes.truncated("too short", rng) is None
    assert probes.empty("", rng) is None
    assert probes.empty("x", rng) == ""
    assert probes.repeated(" ", rng) is None


def test_every_probe_is_made_of_every_good_completion():
    made = probes.probe_pairs(["p", "q", "r"], OTHERS)
    assert set(made) == set(probes.NAMES)
    for pairs in made.values():
        assert [i for i, _ in pairs] == [0, 1, 2]
        assert all(text != OTHERS[i] for i, text in pairs)
    assert sorted(text for _, text in made["off_topic"]) == sorted(OTHERS)


def test_off_topic_answers_another_prompt():
    made = probes.probe_pairs(["p", "p", "q"], ["a", "b", "c"])
    assert made["off_topic"] == [(0, "c"), (1, "c"), (2, "a")]
    assert probes.probe_pairs(["p", "p"], ["a", "b"])["off_topic"] == []


def test_a_seed_makes_the_same_texts_whatever_else_is_made():
    made = probes.probe_pairs(["p", "q", "r"], OTHERS, seed=4)
    assert probes.probe_pairs(["p", "q", "r"], OTHERS, seed=4) == made
    assert probes.probe_pairs(["p", "q", "r"], OTHERS, seed=5) != made
    assert probes.probe_pairs(["p"], OTHERS[:1], seed=4)["gibberish"] == made["gibberish"][:1]


def test_figures_of_probes():
    found = probes.evaluate({"empty": [1.0, -1.0, 0.0, 2.0], "gibberish": []}, {"empty": list("abcd"), "gibberish": []})
    assert found.keys() == {"empty"}
    assert found["empty"]["accuracy"]["mean"] == pytest.approx(2.5 / 4)
    assert found["empty"]["margin"]["mean"] == pytest.approx(0.5)


def test_numbers_must_match():
    with pytest.raises(SawyerError, match="1 prompts but 2"):
        probes.probe_pairs(["p"], ["a", "b"])
