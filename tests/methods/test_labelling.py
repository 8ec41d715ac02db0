"""From scored answers to comparisons."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt, user
from sawyer.methods.labelling import Scored, answer_id, comparisons

PROMPT = Prompt((user("What is a river?"),), {"topic": "river"})


def answers(scores):
    return [Scored(f"answer {i}", f"model {i % 2}", score, {"honesty": score}) for i, score in enumerate(scores)]


def made(scores, form, **options):
    return comparisons([PROMPT], [answers(scores)], form, labelled_by="judge", **options)


def test_the_best_stands_against_any_other_one():
    seen = {made([1, 4, 2, 3], "best_random", seed=seed)[0].completions for seed in range(30)}
    assert seen == {("answer 1", f"answer {k}") for k in (0, 2, 3)}
    assert made([1, 4, 2, 3], "best_random", seed=7) == made([1, 4, 2, 3], "best_random", seed=7)


def test_a_comparison_says_who_wrote_what_and_what_it_was_given():
    [one] = made([1, 4, 2, 3], "extremes")
    assert one.completions == ("answer 1", "answer 0")
    assert one.scores == (4, 1)
    assert one.info == {
        "topic": "river", "labelled_by": "judge", "models": ["model 1", "model 0"],
        "details": [{"honesty": 4}, {"honesty": 1}],
    }  # fmt: skip


def test_pairs_are_drawn_among_all_and_rankings_leave_out_ties():
    assert len(made([1, 4, 2, 3], "pairs", pairs=4)) == 4
    assert len(made([1, 4, 2, 3], "pairs", pairs=40)) == 6
    [ranking] = made([1, 4, 1, 3], "rankings")
    assert ranking.completions == ("answer 1", "answer 3", "answer 0")
    [ranking] = made([1, 4, 2, 3.5], "rankings", min_margin=1)
    assert ranking.scores == (4, 2)


@pytest.mark.parametrize("form", ["pairs", "rankings", "extremes", "best_random"])
def test_equal_scores_equal_texts_and_missing_scores_make_no_pair(form):
    assert made([2, 2, 2], form) == []
    assert made([3, math.nan, math.nan], form) == []
    assert made([math.nan] * 3, form) == []
    twins = [Scored("same", score=1.0), Scored("same ", score=2.0)]
    assert comparisons([PROMPT], [twins], form, labelled_by="judge") == []


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.5, math.nan]), max_size=6), st.integers(0, 3))
def test_whoever_is_chosen_has_the_higher_score(scores, seed):
    for form in ("pairs", "rankings", "extremes", "best_random"):
        for one in made(scores, form, seed=seed):
            assert list(one.scores) == sorted(one.scores, reverse=True)
            known = [score for score in scores if not math.isnan(score)]
            if form != "pairs":
                assert one.scores[0] == max(known)
            if form == "extremes":
                assert one.scores[-1] == min(known)


def test_an_answer_is_called_by_its_words_alone():
    messages = (user("What is a river?"),)
    assert answer_id(messages, "Water.") == answer_id(({"content": "What is a river?", "role": "user"},), "Water.")
    others = [(messages, "Water"), ((user("What is a town?"),), "Water.")]
    assert len({answer_id(*own) for own in [*others, (messages, "Water.")]}) == 3
