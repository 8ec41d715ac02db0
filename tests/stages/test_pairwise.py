"""Stage `pairwise`: a model that learns to name the better answer, wherever it stands."""

import pytest
from transformers import AutoModelForCausalLM

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison, Prompt, user
from sawyer.errors import SawyerError
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.pairwise_format import both_orders, first_wins, letter_ids, question_tree
from sawyer.feedback.protocol import logit
from sawyer.models.load import load_policy, load_tokenizer
from sawyer.pipeline.stages._pairwise import split_pairs
from sawyer.pipeline.stages.pairwise import STAGE
from sawyer.trees.model import TreePolicy
from sawyer.trees.score import score_trees

SMALL = {"steps": 80, "batch_size": 16, "learning_rate": 1e-2, "max_tokens": 250, "data": "pairs"}


def asked(n, first=0):
    """The better answer is all `+`."""
    return [Comparison((user(f"{i}?"),), ("+" * (3 + i % 3), "-" * (3 + i % 2))) for i in range(first, first + n)]


def test_it_learns_which_answer_is_better_and_not_where_it_stands(saved_policy, run_stage):
    data = {"pairs": {"train": asked(64), "test": asked(16, first=200)}}
    folder, figures = run_stage(STAGE, saved_policy(), data, validation="test", **SMALL)
    assert figures["pairs"] == 64
    held_out = figures["held_out"]
    assert held_out["accuracy"]["mean"] > 0.9
    assert held_out["position"]["changed_by_order"] < 0.2
    assert held_out["position"]["first"] == pytest.approx(0.5, abs=0.15)

    AutoModelForCausalLM.from_pretrained(folder)
    chat, policy = ChatFormat(load_tokenizer(str(folder))), TreePolicy(load_policy(str(folder)))
    letters = letter_ids(chat)

    def probability(record):
        trees = [question_tree(chat, record.prompt, *record.completions[::o], letters=letters) for o in (1, -1)]
        return both_orders(*(first_wins(*logps) for logps in score_trees(policy, trees)))

    likely = [probability(record) for record in asked(16, first=200)]
    assert sum(p > 0.5 for p in likely) / 16 == pytest.approx(held_out["accuracy"]["mean"])

    records = asked(16, first=200)
    used = PairwiseModel(str(folder))
    found = used.prefer([Prompt(record.prompt) for record in records], [record.completions for record in records])
    assert found == pytest.approx(likely, abs=1e-5)
    assert sum(map(logit, found)) / 16 == pytest.approx(held_out["margin"]["mean"], abs=1e-2)


def test_what_is_left_out_is_counted_and_too_much_is_refused(saved_policy, run_stage):
    bad = [Comparison((user("a"), user("b")), ("+", "-")), Comparison((user("c"),), ("+", " "))]
    data = {"pairs": {"train": [*asked(8), *bad]}}
    _, figures = run_stage(STAGE, saved_policy(), data, **{**SMALL, "steps": 1})
    assert figures["pairs"] == 8
    assert figures["filtered"] == {
        "turns that do not alternate between user and assistant": 1, "an empty turn": 1,
    }  # fmt: skip
    with pytest.raises(SawyerError, match="2 of 10 comparisons of pairs/train cannot be used"):
        run_stage(STAGE, saved_policy(), data, **{**SMALL, "steps": 1, "max_filtered": 0.1})


def test_rankings_give_every_pair():
    ranking = Comparison((user("e"),), ("b", "a", "c"), (2, 3, 1))
    pairs = split_pairs([ranking, *asked(1)])
    assert [pair.completions for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c"), ("+++", "---")]
