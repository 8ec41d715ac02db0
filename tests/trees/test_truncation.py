"""Paths that are too long lose their beginning, and only they."""

import pytest

from sawyer.data.chat import ChatFormat
from sawyer.data.records import user
from sawyer.trees.build import truncated_trees


@pytest.fixture
def chat(tiny_tokenizer):
    return ChatFormat(tiny_tokenizer)


def paths(trees):
    return [[*tree.prompt, *completion] for tree in trees for completion in tree.completions]


PROMPTS = [[user("word " * 60)], [user("Why?")]]
TEXTS = [["Yes", "No, because of the rain that fell on the town."], ["a", "b", "c"]]


def test_nothing_is_cut_without_a_limit_or_below_it(chat):
    for limit in (None, 1000):
        trees, cut = truncated_trees(chat, PROMPTS, TEXTS, limit)
        assert (len(trees), cut) == (2, 0)
        assert [len(tree.completions) for tree in trees] == [2, 3]


def test_each_path_is_the_end_of_what_it_was_after_one_bos(chat):
    whole = paths(truncated_trees(chat, PROMPTS, TEXTS, None)[0])
    trees, cut = truncated_trees(chat, PROMPTS, TEXTS, 40)
    assert (len(trees), cut) == (3, 2)
    for before, after in zip(whole, paths(trees), strict=True):
        assert len(after) == min(len(before), 40)
        assert after[0] == before[0] == chat.bos_id
        assert after[1:] == before[len(before) - len(after) + 1 :]
    assert all(tree.longest_path <= 40 for tree in trees)


def test_a_path_is_cut_the_same_whatever_its_siblings(chat):
    together = paths(truncated_trees(chat, PROMPTS[:1], TEXTS[:1], 40)[0])
    alone = [path for text in TEXTS[0] for path in paths(truncated_trees(chat, PROMPTS[:1], [[text]], 40)[0])]
    assert together == alone


def test_a_completion_longer_than_the_limit_keeps_its_end(chat):
    (tree,), cut = truncated_trees(chat, PROMPTS[1:], [["word " * 60]], 10)
    assert (cut, tree.longest_path, len(tree.prompt)) == (1, 10, 1)
    assert tree.completions[0][-1] == chat.eos_id
