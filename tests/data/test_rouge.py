"""ROUGE-L against its definition, written out slowly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.rouge import Overlaps, rouge_l, rouge_words


def slow_rouge_l(one: str, other: str) -> float:
    """F1 of precision and recall of the longest common subsequence, by the table of the textbooks."""
    a, b = rouge_words(one), rouge_words(other)
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, start=1):
        for j, y in enumerate(b, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    common = table[-1][-1]
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall)


TEXT = st.lists(st.sampled_from(["the", "a", "cat", "Cat's", "dog,", "sat", "on", "é", "7"]), max_size=12).map(" ".join)


@given(TEXT, st.lists(TEXT, max_size=6))
def test_the_nearest_is_that_of_the_definition(text, texts):
    value, which = Overlaps(texts).nearest(text)
    wanted = [slow_rouge_l(text, other) for other in texts]
    assert value == pytest.approx(max(wanted, default=0.0))
    assert which == (wanted.index(max(wanted)) if wanted and max(wanted) > 0 else None)


@given(TEXT, TEXT)
def test_it_is_the_same_both_ways_round(one, other):
    assert rouge_l(one, other) == pytest.approx(rouge_l(other, one))


def test_the_example_of_the_paper():
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == 3 / 4
    assert rouge_l("the gunman kill police", reference) == 2 / 4


def test_a_text_is_nearest_to_itself_whatever_its_case_and_punctuation():
    overlaps = Overlaps(["Name a river.", "Name a lake!"])
    assert overlaps.nearest("name, a LAKE") == (1.0, 1)
    overlaps.add("A poem " * 40)
    assert overlaps.nearest("a poem " * 40) == (1.0, 2)
    assert len(overlaps) == 3
