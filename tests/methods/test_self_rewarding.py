"""Which judgements agree with people, what ranks say as points, and how often the same points may occur."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Comparison, user
from sawyer.methods.self_rewarding import agreeing, balanced, people_points


def test_a_sample_agrees_where_it_inverts_nothing_and_tells_best_from_last():
    points = [  # answers, best first, in six samples
        [5, 5, 3, 3, None, 4],
        [4, 5, 4, 3, 3, 4],
        [1, 2, 2, 3, 2, 3],
    ]
    assert agreeing(points) == [0, 1, 5]
    assert agreeing([[2], [3]]) == []


def test_ranks_become_points_from_the_highest_to_the_lowest():
    asked = (user("What is a river?"),)
    ranked = [Comparison(asked, ("a", "b", "c", "d")), Comparison(asked, ("a", "b"))]
    assert people_points(ranked, 0, 5) == [[5, 3, 2, 0], [5, 0]]
    scored = [Comparison(asked, ("a", "b"), (0.9, 0.7)), Comparison(asked, ("a", "b", "c"), (0.4, 0.2, -0.1))]
    assert people_points(scored, 0, 5) == [[5, 4], [2, 2, 0]]
    assert people_points([scored[0], ranked[1]], 0, 5) == [[5, 0], [5, 0]]


def test_points_that_come_too_often_are_thinned_and_others_stay():
    points = [4.0] * 10 + [1.0, 2.0, 3.0]
    kept = balanced(list(enumerate(points)), points, 0.5)
    assert Counter(value for _, value in kept) == {4.0: 3, 1.0: 1, 2.0: 1, 3.0: 1}
    assert kept == sorted(kept)
    assert balanced(points, points, 1.0) == points
    assert balanced([4.0] * 5, [4.0] * 5, 0.2) == [4.0] * 5
    assert Counter(balanced(points[:11], points[:11], 0.3)) == {4.0: 1, 1.0: 1}


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), min_size=1, max_size=40), st.sampled_from([0.3, 0.5, 0.8])
)
def test_no_points_have_more_than_their_share(points, most):
    kept = balanced(points, points, most, seed=1)
    counts = Counter(kept)
    assert set(counts) == set(points)
    if most * len(counts) >= 1:
        assert max(counts.values()) <= most * len(kept)
        if max(Counter(points).values()) <= most * len(points):
            assert kept == points
