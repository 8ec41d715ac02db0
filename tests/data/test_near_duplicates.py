"""Prompts that are nearly the same are found, all of them, and a split keeps them together."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.near_duplicates import RUN, groups
from sawyer.data.ngrams import ngrams, words
from sawyer.data.records import Comparison, Prompt, user
from sawyer.data.splits import split
from sawyer.errors import SawyerError

LONG = "Tell me how a glacier carves a valley out of the rock and why the valley has a round bottom"


def prompt(text):
    return Prompt((user(text),))


def slowly(texts, threshold):
    """The partition by comparing every text with every other."""
    runs = [set(ngrams(words(text), RUN)) for text in texts]
    of = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        if len(runs[i] & runs[j]) >= threshold * len(runs[i] | runs[j]) - 1e-9:
            of = [of[i] if group == of[j] else group for group in of]
    return {frozenset(k for k in range(len(texts)) if of[k] == group) for group in of}


def partition(numbers):
    return {frozenset(i for i, n in enumerate(numbers) if n == number) for number in numbers}


texts = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join), max_size=14)


@given(texts.filter(bool), st.sampled_from([0.3, 0.5, 0.6, 0.8, 1.0]), st.randoms())
def test_groups_are_those_of_comparing_every_pair_in_any_order(some, threshold, rng):
    assert partition(groups([prompt(text) for text in some], threshold)) == slowly(some, threshold)
    order = rng.sample(range(len(some)), len(some))
    shuffled = partition(groups([prompt(some[i]) for i in order], threshold))
    assert {frozenset(order[i] for i in group) for group in shuffled} == slowly(some, threshold)


def test_a_changed_word_in_a_long_prompt_makes_a_near_duplicate():
    changed = LONG.replace("round", "broad")
    other = "Write a poem about a town by the sea where nobody has seen the sun for a hundred years"
    assert groups([prompt(LONG), prompt(other), prompt(changed.upper() + "!")], 0.6) == [0, 1, 0]
    assert groups([prompt(LONG), prompt(other), prompt(changed)], 0.95) == [0, 1, 2]


def test_prompts_without_words_are_near_duplicates_only_of_themselves():
    assert groups([prompt("???"), prompt("!!!"), prompt("???"), prompt("Why?")], 0.8) == [0, 1, 0, 3]
    assert groups([], 0.8) == []


@pytest.mark.timeout(30)  # a second, where comparing all of them would take minutes
def test_thousands_of_prompts_of_one_template_are_one_group_and_soon_found():
    template = " ".join(f"word{i}" for i in range(100))
    records = [prompt(f"{template} {i} and then {i * 7}") for i in range(6000)]
    assert set(groups(records, 0.8)) == {0}


def test_an_impossible_threshold_is_refused():
    for threshold in (0, 1.2):
        with pytest.raises(SawyerError, match="must be above 0 and at most 1"):
            groups([prompt("Why?")], threshold)


def test_a_split_keeps_near_duplicates_together():
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(300)]
    records = []
    for i in range(60):
        base = [rng.choice(vocabulary) for _ in range(25)]
        for j in range(3):
            twin = base if j == 0 else [*base[:-1], f"ending{j}"]
            records.append(Comparison((user(" ".join(twin)),), (f"Yes {i}", f"No {j}")))
    together = groups(records, 0.8)
    assert len(set(together)) == 60
    halves = {"train": 0.5, "test": 0.5}
    parts = split(records, halves, seed=3, groups=together)
    place = {id(record): name for name, part in parts.items() for record in part}
    homes = {}
    for record, group in zip(records, together, strict=True):
        homes.setdefault(group, set()).add(place[id(record)])
    assert all(len(home) == 1 for home in homes.values())
    assert 15 < len(parts["test"]) / 3 < 45
    alone = split(records, halves, seed=3)
    assert {name: len(part) for name, part in alone.items()} != {name: len(part) for name, part in parts.items()}
