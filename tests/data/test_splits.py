"""A prompt belongs to one split, whatever else is in the file."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant, user
from sawyer.data.sources import as_conversations, as_prompts
from sawyer.data.splits import split, split_key
from sawyer.errors import SawyerError

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}

questions = st.text("abc dE\n", min_size=1, max_size=6).filter(str.strip)
dialogues = st.lists(questions, min_size=1, max_size=3)


def turns(said):
    return tuple(user(t) if i % 2 == 0 else assistant(t) for i, t in enumerate(said))


records = st.one_of(
    st.builds(lambda q: Prompt((user(q),)), questions),
    st.builds(
        lambda q, more: Comparison(turns([q, *more] if len(more) % 2 == 0 else [q]), ("A", "B")), questions, dialogues
    ),
    st.builds(lambda q, a: Conversation((user(q), assistant(a))), questions, questions),
    st.builds(lambda q, a: Labelled((user(q),), a, True), questions, questions),
)


def placed(parts):
    return {id(record): name for name, part in parts.items() for record in part}


@given(st.lists(records, max_size=30), st.integers(0, 100))
def test_a_prompt_never_crosses_a_split(rows, seed):
    parts = split(rows, FRACTIONS, seed)
    keys = [{split_key(record) for record in part} for part in parts.values()]
    assert sum(len(of_part) for of_part in keys) == len(set().union(*keys))


@given(st.lists(records, max_size=30), st.integers(0, 100), st.randoms())
def test_a_split_loses_nothing_and_ignores_order_and_company(rows, seed, rng):
    whole = placed(split(rows, FRACTIONS, seed))
    assert set(whole) == {id(record) for record in rows}
    some = rng.sample(rows, len(rows) // 2)
    assert placed(split(some, FRACTIONS, seed)) == {id(record): whole[id(record)] for record in some}


@given(st.lists(records, min_size=1, max_size=10))
def test_every_view_of_a_record_goes_where_the_record_goes(rows):
    answered = [record for record in rows if not isinstance(record, Prompt)]
    for record in answered:
        assert split_key(as_conversations([record])[0]) == split_key(record)
    for record in rows:
        assert split_key(as_prompts([record])[0]) == split_key(record)


def test_case_white_space_unicode_form_and_system_turn_do_not_make_another_prompt():
    system = {"role": "system", "content": "Be kind."}
    same = [
        Prompt((user("What is caf\u00e9?"),)),
        Prompt((user(" what  IS\ncafe\u0301? "),)),
        Prompt((system, user("What is caf\u00e9?"))),
    ]
    assert len({split_key(record) for record in same}) == 1


def test_turns_of_one_dialogue_stay_together():
    short = Comparison((user("Hi"),), ("Hello", "What"))
    long = Comparison((user("Hi"), assistant("Hello"), user("Why?")), ("Because", "No"))
    assert split_key(short) == split_key(long)


def test_fractions_are_kept_about_and_the_seed_matters():
    rows = [Prompt((user(f"question {random.Random(i).random()}"),)) for i in range(2000)]
    parts = split(rows, FRACTIONS, seed=1)
    for name, share in FRACTIONS.items():
        assert len(parts[name]) == pytest.approx(2000 * share, abs=70)
    assert parts["test"] != split(rows, FRACTIONS, seed=2)["test"]


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5, "b": 0.4}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}])
def test_fractions_that_are_none_are_refused(fractions):
    with pytest.raises(SawyerError, match="fractions"):
        split([], fractions)
