"""The columns of the table of data sets."""

import pytest

from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant, user
from sawyer.data.statistics import by_source, table


def count(texts):
    assert len(texts) == len(set(texts))
    return [len(text.split()) for text in texts]


def info(source, *models):
    return {"source": source, "labelled_by": "people", **({"models": list(models)} if models else {})}


def test_lengths_are_means_over_prompts_and_over_pairs():
    why, how = (user("Why is that so?"),), (user("How?"),)
    rows = table(
        [
            Comparison(why, ("one two three", "one"), None, info("a", "x", "y")),
            Comparison(why, ("one", "one two three four five"), None, info("a", "x", "z")),
            Comparison(how, ("one", "one two three"), (2, 1), info("b")),
        ],
        count,
    )
    a, b, both = rows
    assert (a.source, a.prompts, a.pairs, a.records) == ("a", 1, 2, 2)
    assert (a.prompt_tokens, a.chosen_tokens, a.rejected_tokens) == (4, 2, 3)
    assert a.written_by == {"x": 2, "y": 1, "z": 1}
    assert a.labelled_by == {"people": 2}
    assert b.written_by == {"not said": 2}
    assert (both.source, both.prompts, both.pairs, both.prompt_tokens) == ("all", 2, 3, 2.5)


def test_a_ranking_counts_as_its_pairs():
    ranking = Comparison((user("Why?"),), ("1 2 3 4", "1 2", "1"), None, info("a"))
    pairs = [
        Comparison((user("Why?"),), two, None, info("a"))
        for two in (("1 2 3 4", "1 2"), ("1 2 3 4", "1"), ("1 2", "1"))
    ]
    (one,), (three,) = table([ranking], count), table(pairs, count)
    assert (one.pairs, one.chosen_tokens, one.rejected_tokens) == (
        three.pairs,
        three.chosen_tokens,
        three.rejected_tokens,
    )
    assert one.pairs == 3
    assert one.chosen_tokens == pytest.approx(10 / 3)


def test_other_records_have_what_they_have():
    rows = table(
        [
            Prompt((user("Why?"),)),
            Conversation((user("Why?"), assistant("So it is.")), {"source": "talk"}),
            Labelled((user("Why?"),), "No no.", False, {"source": "thumbs"}),
        ],
        count,
    )
    by_name = {row.source: row for row in rows}
    assert by_name["not said"].chosen_tokens is None
    assert by_name["talk"].chosen_tokens == 3
    assert by_name["thumbs"].rejected_tokens == 2
    assert by_name["all"].pairs == 0
    assert table([], count) == []


def test_records_are_counted_by_source():
    records = [
        Prompt((user("Why?"),), {"source": "a"}),
        Prompt((user("How?"),)),
        Prompt((user("When?"),), {"source": "a"}),
    ]
    assert by_source(records) == {"a": 2, "not said": 1}
