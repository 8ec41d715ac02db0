"""Packing and the packed row, as properties."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.trees.tree import TokenTree, TreeBatch, batches, pack

token_lists = st.lists(st.integers(3, 90), min_size=1, max_size=6)


@st.composite
def token_trees(draw) -> TokenTree:
    completions = draw(st.lists(token_lists, min_size=1, max_size=4))
    scored = None
    if draw(st.booleans()):
        scored = [draw(st.lists(st.booleans(), min_size=len(c), max_size=len(c))) for c in completions]
    numbers = st.floats(-100, 100, width=32)
    values = {"reward": draw(st.lists(numbers, min_size=len(completions), max_size=len(completions)))}
    return TokenTree(draw(token_lists), completions, scored, values)


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(16, 150))
@settings(max_examples=60, deadline=None)
def test_every_tree_is_packed_once_within_the_budget(lengths, budget):
    rows = pack(lengths, budget)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) == 1 or sum(lengths[i] for i in row) <= budget
        assert row == sorted(row)
    assert rows == sorted(rows)
    assert rows == pack(list(lengths), budget)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_packing_is_close_to_the_fewest_rows(lengths):
    """First-fit decreasing needs at most 11/9 of the optimum and 6/9 of a row (Dosa 2007)."""
    assert len(pack(lengths, 100)) <= 11 / 9 * sum(lengths) / 100 * 2 + 1
    assert len(pack(sorted(lengths), 100)) == len(pack(lengths, 100))


def test_a_tree_longer_than_the_budget_gets_a_row_of_its_own():
    assert pack([5, 100, 5], budget=20) == [[0, 2], [1]]


def test_nothing_packs_to_nothing():
    assert pack([], budget=20) == []
    assert list(batches([], budget=20)) == []


@given(st.lists(token_trees(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_packed_row_holds_every_token_once_and_points_at_what_is_scored(trees):
    batch = TreeBatch.of(trees)
    ids, positions, branch = batch.input_ids.tolist(), batch.position_ids.tolist(), batch.layout.branch_T.tolist()
    assert len(ids) == len(positions) == len(branch) == batch.layout.length == sum(tree.tokens for tree in trees)
    assert batch.scored_tokens == sum(tree.scored_tokens for tree in trees)
    assert batch.trees == len(trees)

    tree_T = batch.layout.tree_T.tolist()
    completion, predicted = 0, []
    for r, tree in enumerate(trees):
        mine = [t for t in range(len(ids)) if tree_T[t] == r]
        prompt = [t for t in mine if branch[t] < 0]
        assert [ids[t] for t in prompt] == tree.prompt
        for k, tokens in enumerate(tree.completions):
            own = [t for t in mine if branch[t] == completion]
            assert [ids[t] for t in own] == tokens
            assert [positions[t] for t in prompt + own] == list(range(len(prompt) + len(own)))
            assert batch.last_index[completion] == own[-1]
            assert batch.tree_index[completion] == r
            assert batch.values["reward"][completion] == pytest.approx(tree.values["reward"][k])
            for i, token in enumerate(tokens):
                if tree.scored is None or tree.scored[k][i]:
                    predicted.append(((prompt + own)[len(prompt) + i - 1], token, completion))
            completion += 1
    found = zip(batch.predict_index.tolist(), batch.target_ids.tolist(), batch.completion_index.tolist(), strict=True)
    assert list(found) == predicted


@given(st.lists(token_trees(), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_sums_by_completion_add_up_each_completions_scored_tokens(trees):
    batch = TreeBatch.of(trees)
    value_N = torch.arange(1.0, batch.scored_tokens + 1)
    expected = torch.zeros(batch.completions)
    for value, owner in zip(value_N, batch.completion_index, strict=True):
        expected[owner] += value
    torch.testing.assert_close(batch.sum_by_completion(value_N), expected)
    ones = torch.ones(batch.scored_tokens)
    assert batch.tokens_by_completion().tolist() == batch.sum_by_completion(ones).tolist()


def test_batches_come_with_the_indices_of_their_trees(grow):
    trees = grow([(3, 4), (8, 9), (2, 1), (5, 5)])
    random.Random(0).shuffle(trees)
    for row, batch in batches(trees, budget=20):
        assert batch.input_ids.tolist() == [
            t for i in row for t in [*trees[i].prompt, *(t for c in trees[i].completions for t in c)]
        ]


def test_by_tree_gives_one_row_a_tree(grow):
    batch = TreeBatch.of(grow([(2, 1, 1), (3, 2, 2)]))
    assert batch.by_tree(torch.arange(4)).tolist() == [[0, 1], [2, 3]]


def test_by_tree_refuses_trees_of_unequal_numbers_of_completions(grow):
    with pytest.raises(ValueError, match="differ in their number of completions"):
        TreeBatch.of(grow([(2, 1, 1), (3, 2)])).by_tree(torch.arange(3))


@pytest.mark.parametrize(
    ("prompt", "completions", "scored"),
    [([], [[1]], None), ([1], [], None), ([1], [[]], None), ([1], [[1], []], None), ([1], [[1, 2]], [[True]])],
)
def test_impossible_trees_are_refused(prompt, completions, scored):
    with pytest.raises(ValueError, match=r"tree needs|one flag"):
        TokenTree(prompt, completions, scored)
