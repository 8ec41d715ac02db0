"""Published rankings, in the layout their cards give, and what is wrong with some. All rows are invented."""

import pytest

from sawyer.data.records import assistant, user
from sawyer.errors import SawyerError
from tests.data.layouts import (
    message,
    nectar,
    tree,
)


def test_nectar_is_a_ranking_of_seven(load):
    (record,), _ = load("nectar", [nectar([3.0, 1.0, 2.0, 7.0, 5.0, 4.0, 6.0])])
    assert record.completions == tuple(f"Answer {rank}.0." for rank in range(1, 8))
    assert record.scores is None
    assert record.prompt == (user("Hi"), assistant("Hello"), user("Why?"))
    assert record.info["models"][:2] == ["model-1", "model-2"]
    assert len(load("nectar", [nectar([3, 1, 2])], pairing="all")[0]) == 3
    assert load("nectar", [nectar([3, 1, 2])], pairing="best-random")[0][0].chosen == "Answer 1."
    rows = [nectar([1, 2], good_natured=True), nectar([1, 2], "\n\nHuman: Bad?\n\nAssistant: ", good_natured=False)]
    assert load("nectar", rows, good_natured=True)[1].dropped == {"the prompt is not good-natured": 1}


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ([1, 2, 2], "the ranking has ties"),
        ([1, 2, 4], "the ranking has holes"),
        ([0, 1, 2], "the ranking has holes"),
        ([1], "there are fewer than two completions to compare"),
        ([1, "first"], "`rank` is not a number"),
        ([], "there are fewer than two completions to compare"),
    ],
)
def test_a_ranking_with_ties_holes_or_one_answer_is_bad(load, ranks, reason):
    good = [nectar([1, 2], f"\n\nHuman: Why {i}?\n\nAssistant: ") for i in range(9)]
    records, report = load("nectar", [*good, nectar(ranks)])
    assert len(records) == 9
    assert report.dropped == {reason: 1}
    assert report.examples[reason] == ["train.jsonl:10"]
    with pytest.raises(SawyerError, match=r"2 of 11 rows cannot be used, more than the share of 0\.1 allowed"):
        load("nectar", [*good, nectar(ranks), nectar(ranks)])


def test_oasst_trees_rank_the_answers_to_every_message(load):
    records, report = load("oasst", [tree()])
    assert [record.completions for record in records] == [("First", "Second", "Third"), ("No", "Yes")]
    assert records[1].prompt == (user("Tell me."), assistant("First"), user("And then?"))
    assert records[0].info["models"] == ["a person", "chip20b", "a person"]
    assert records[0].info["labelled_by"] == "people"
    assert report.dropped == {"an answer without a rank": 1}
    assert len(load("oasst", [tree()], pairing="all")[0]) == 4
    with pytest.raises(SawyerError, match="1 the tree is of another language"):
        load("oasst", [tree()], languages=["de"])


def test_oasst_messages_as_on_the_hub_give_what_trees_give(load):
    def flat(node, parent=None):
        own = {name: value for name, value in node.items() if name != "replies"}
        yield {**own, "parent_id": parent}
        for reply in node["replies"]:
            yield from flat(reply, node["message_id"])

    messages = list(flat(tree()["prompt"]))
    assert load("oasst", messages)[0] == load("oasst", [tree()])[0]
    records, report = load("oasst", [*messages, message("x", "Lost", parent="nowhere")])
    assert len(records) == 2
    assert report.dropped["a message before it is missing"] == 1


def test_oasst_ties_and_messages_of_the_same_side_are_bad(load):
    tied = message("r", "Why?", "prompter", replies=[message("a", "A", rank=0), message("b", "B", rank=0)])
    same = message("s", "How?", "prompter", replies=[message("c", "Hm?", "prompter"), message("d", "D", rank=0)])
    rows = [{"prompt": tied}, {"prompt": same}, tree()]
    records, report = load("oasst", rows, max_bad=1)
    assert len(records) == 2
    assert report.dropped["the ranking has ties"] == 1
    assert report.dropped["a message is answered by its own side"] == 1


def test_oasst_rankings_with_holes_are_bad_unless_the_answer_was_deleted(load):
    def asked(*ranks, deleted=()):
        answers = [message(f"a{rank}", f"Answer {rank}", rank=rank, deleted=rank in deleted) for rank in ranks]
        return {"prompt": message(f"q{ranks}", f"Why {ranks}?", "prompter", replies=answers)}

    records, report = load("oasst", [asked(0, 1, 2, deleted=[1]), asked(0, 2), asked(1, 2)], max_bad=1)
    assert [record.completions for record in records] == [("Answer 0", "Answer 2")]
    assert report.dropped == {"the ranking has holes": 2}
    with pytest.raises(SawyerError, match=r"1 of 2 rows cannot be used, .*the ranking has holes"):
        load("oasst", [asked(0, 1), asked(0, 2)])


def test_oasst_messages_that_answer_each_other_or_are_there_twice_are_bad(load):
    prompt = message("root", "Why?", "prompter")
    answers = [message("a", "A", rank=0, parent="root"), message("b", "B", rank=1, parent="root")]
    loop = [message("c", "C", parent="d"), message("d", "D", "prompter", parent="c"), message("e", "E", parent="e")]
    again = [message("root", "C", parent="root"), message("a", "D", rank=2, parent="root")]
    lost = [message("x", "X", "prompter", parent="nowhere"), message("y", "Y", parent="x")]
    records, report = load("oasst", [prompt, *answers, *loop, *again, *lost, message("z", "Z")], max_bad=1)
    assert [record.completions for record in records] == [("A", "B")]
    assert report.dropped == {
        "a message before it is missing": 5,
        "a message with this `message_id` was there before": 2,
        "the conversation starts with a turn of the assistant": 1,
    }
    nested = message("root", "Hm.", replies=[message("root", "So?", "prompter", replies=[message("a", "Z")])])
    assert load("oasst", [{**prompt, "replies": [nested]}, *answers], max_bad=1)[0][0].prompt == (user("Why?"),)


def test_oasst_threads_may_be_long(load):
    roles = ("prompter", "assistant")
    thread = [message("0", "Turn 0", "prompter")]
    thread += [message(str(i), f"Turn {i}", roles[i % 2], parent=str(i - 1), rank=0) for i in range(1, 3000)]
    last = message("last", "Another end", parent="2998", rank=1)
    (record,), _ = load("oasst", [*thread, last])
    assert record.completions == ("Turn 2999", "Another end")
    assert len(record.prompt) == 2999
