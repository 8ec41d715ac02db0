"""Other people's files become records, and a file that could be read in two ways is not guessed at."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from sawyer.data.formats import CONVERTERS, detect, load_any
from sawyer.data.hh import hh_comparison, load_hh
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant, user
from sawyer.errors import SawyerError

Q, A, B = user("Why?"), assistant("Because."), assistant("No.")
SYSTEM = {"role": "system", "content": "Be kind."}
HUMAN, GPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}
PAIR = Comparison((Q,), ("Because.", "No."))
TALK = Conversation((Q, A))
HH_CHOSEN = "\n\nHuman: Why?\n\nAssistant: Because."
HH_REJECTED = "\n\nHuman: Why?\n\nAssistant: No."

ROWS = [
    ("alpaca", {"instruction": "Why?", "input": "", "output": "Because."}, TALK),
    ("alpaca", {"instruction": "Why", "input": "A?", "output": "B"}, Conversation((user("Why\n\nA?"), assistant("B")))),
    ("alpaca", {"instruction": "Why?", "context": "", "response": "Because.", "category": "qa"}, TALK),
    (
        "alpaca",
        {"instruction": "Why?", "output": "Because.", "system": "Be kind.", "history": [["Hi", "Hello"]]},
        Conversation((SYSTEM, user("Hi"), assistant("Hello"), Q, A)),
    ),
    ("alpaca", {"instruction": "Why?", "input": "", "output": "x", "chosen": "Because.", "rejected": "No."}, PAIR),
    ("alpaca", {"instruction": "Why?", "output": ["Because.", "No."]}, PAIR),
    ("alpaca", {"instruction": "Why?", "output": "No.", "kto_tag": False}, Labelled((Q,), "No.", False)),
    ("sharegpt", {"conversations": [HUMAN, GPT]}, TALK),
    ("sharegpt", {"conversations": [HUMAN, GPT], "system": "Be kind."}, Conversation((SYSTEM, Q, A))),
    ("sharegpt", {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "No."}}, PAIR),
    ("sharegpt", {"conversations": [HUMAN, GPT], "kto_tag": True}, Labelled((Q,), "Because.", True)),
    ("messages", {"messages": [Q, A], "tools": "[]"}, TALK),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, A]}, TALK),
    ("messages", {"messages": [Q, A], "label": True}, Labelled((Q,), "Because.", True)),
    ("messages", {"messages": [Q], "ground_truth": "42"}, Prompt((Q,))),
    ("trl", {"prompt": "Why?"}, Prompt((Q,))),
    ("trl", {"prompt": [SYSTEM, Q], "info": {"id": 1}}, Prompt((SYSTEM, Q), {"id": 1})),
    ("trl", {"prompt": "Why?", "completion": "Because."}, TALK),
    ("trl", {"prompt": [Q], "completion": [A]}, TALK),
    ("trl", {"prompt": [Q], "completion": [A], "label": False}, Labelled((Q,), "Because.", False)),
    ("trl", {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, PAIR),
    ("trl", {"prompt": [Q], "chosen": [A], "rejected": [B]}, PAIR),
    ("trl", {"chosen": [Q, A], "rejected": [Q, B]}, PAIR),
    ("trl", {"prompt": "Why?", "chosen": [Q, A], "rejected": [Q, B]}, PAIR),
    ("trl", {"chosen": "It is blue.", "rejected": "It is red."}, Comparison((user("It is"),), ("blue.", "red."))),
    (
        "trl",
        {"prompt": [Q], "completions": [[A], [B], "Hm."], "scores": [1, 3, 2]},
        Comparison((Q,), ("Because.", "No.", "Hm."), (1, 3, 2)),
    ),
    ("hh", {"chosen": HH_CHOSEN, "rejected": HH_REJECTED}, PAIR),
    ("hh", {"text": [HH_CHOSEN, HH_REJECTED], "score": [1.0, 0.0]}, PAIR),
    ("hh", {"text": [HH_REJECTED, HH_CHOSEN], "score": [0.0, 1.0]}, PAIR),
    ("hh", {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " Because.", "rejected": " No."}, PAIR),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "record"), ROWS)
def test_each_format_is_recognised_and_converted(format, row, record):
    assert detect([row]) == format
    assert CONVERTERS[format](row) == record


@pytest.mark.parametrize("record", [PAIR, TALK, Prompt((Q,), {"a": 1}), Labelled((Q,), "No.", False)])
def test_sawyers_own_rows_are_recognised(record):
    assert CONVERTERS[detect([record.row()])](record.row()) == record


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"prompt": "Why?", "messages": [Q, A]}, ("messages", "trl")),
        ({"instruction": "Why?", "output": "Because.", "conversations": [HUMAN, GPT]}, ("alpaca", "sharegpt")),
    ],
)
def test_a_file_of_two_formats_is_refused_until_the_user_chooses(tmp_path, row, names):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row] * 3))
    with pytest.raises(SawyerError, match="`format: ") as caught:
        load_any(path)
    assert all(f"`format: {name}`" in str(caught.value) for name in names)
    assert len(load_any(path, names[0])[0]) == 3


def test_a_file_of_no_known_format_is_refused_with_its_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"question": "Why?", "answer": "Because."}]))
    with pytest.raises(SawyerError, match=r"no format that Sawyer knows \(keys of its first row: answer, question\)"):
        load_any(path)
    with pytest.raises(SawyerError, match="`format: csv` is not known"):
        load_any(path, "csv")


def test_a_few_odd_rows_do_not_hide_the_format(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": 0}] + [{"messages": [Q, A]}] * 30))
    records, report = load_any(path)
    assert records == [TALK] * 30
    assert sum(report.dropped.values()) == 1


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([Q, Q, A], "two turns of the user follow each other"),
        ([A, Q, A], "starts with a turn of the assistant"),
        ([Q, SYSTEM, A], "system turn stands in the middle"),
        ([Q, assistant(" ")], "a turn of the assistant is empty"),
        ([Q, A, Q], "ends with a turn of the user"),
        ([Q, {"role": "narrator", "content": "x"}], "unknown role 'narrator'"),
        ([Q, {"role": "assistant", "content": None}], "a turn has no text"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}, A], "not text"),
        ([], "no turns"),
        ("Why?", "not a list"),
    ],
)
def test_a_conversation_that_no_template_can_write_is_dropped_with_the_reason(messages, reason):
    with pytest.raises(SawyerError, match=reason):
        CONVERTERS["messages"]({"messages": messages})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Why?", "chosen": "No.", "rejected": "No."}, "chosen equals rejected"),
        ({"prompt": "Why?", "chosen": "No.", "rejected": ""}, "an answer is empty"),
        ({"chosen": [Q, A], "rejected": [user("What?"), B]}, "differ before the final answer"),
        ({"chosen": "Yes", "rejected": "No"}, "share no prompt"),
        ({"prompt": "Other?", "chosen": [Q, A], "rejected": [Q, B]}, "not the prompt"),
        ({"prompt": "", "completion": "Yes"}, "a turn of the user is empty"),
        ({"prompt": "Why?", "completion": "Yes", "label": "maybe"}, "neither true nor false"),
        ({"prompt": "Why?", "completions": ["a", "b"], "scores": [3, 3]}, "the same score, so neither is preferred"),
        ({"prompt": "Why?", "completions": ["a", "b", "c"], "scores": [3, 1, 3]}, "the same score"),
        ({"prompt": "Why?", "completions": ["a", "b"], "scores": [1, float("nan")]}, "a score is not a finite number"),
        ({"prompt": "Why?", "completions": ["a", "b"], "scores": [float("inf"), 1]}, "a score is not a finite number"),
        ({"prompt": "Why?", "completions": ["First,", "so"], "labels": [True, False]}, "are the steps of one answer"),
        ({"text": "Once upon a time"}, "has no prompt and no answer; write `prompt` and `completion`, or `messages`"),
    ],
)
def test_a_row_that_is_no_pair_is_dropped_with_the_reason(row, reason):
    with pytest.raises(SawyerError, match=reason):
        CONVERTERS["trl"](row)


def test_a_file_of_plain_text_or_of_steps_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "Once upon a time"}] * 3))
    with pytest.raises(SawyerError, match=r"a\.json cannot be used: plain text .* write `prompt` and `completion`"):
        load_any(path)
    path.write_text(json.dumps([{"prompt": "Why?", "completions": ["First,", "so."], "labels": [True, True]}] * 3))
    with pytest.raises(SawyerError, match=r"no usable row among 3; the first is row 1: .*stepwise supervision.*join"):
        load_any(path)


def test_scores_of_a_parquet_file_that_are_not_finite_are_named_with_their_row(tmp_path):
    rows = [
        {"prompt": "Why?", "completions": ["a", "b"], "scores": [1.0, float("nan") if i == 4 else 0.0]}
        for i in range(9)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(SawyerError, match="the first is row 5: a score is not a finite number"):
        load_any(tmp_path / "a.parquet")


# --- HH-RLHF --------------------------------------------------------------------------------------------------------


def test_a_pair_of_dialogues_shares_all_turns_up_to_the_last_human_one():
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?"
    pair = hh_comparison({"chosen": start + "\n\nAssistant: Because.", "rejected": start + "\n\nAssistant:  No. "})
    assert pair == Comparison((user("Hi"), assistant("Hello"), Q), ("Because.", "No."))


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (HH_CHOSEN, HH_CHOSEN, "the two answers are the same"),
        (HH_CHOSEN, "\n\nHuman: Why?\n\nAssistant: ", "an answer is empty"),
        (HH_CHOSEN, "\n\nHuman: Why?", "an answer is empty"),
        (HH_CHOSEN, "\n\nHuman: What?\n\nAssistant: No.", "no prompt in common"),
        (HH_CHOSEN, HH_REJECTED + "\n\nHuman: Oh\n\nAssistant: Yes", "differ before the final answer"),
        ("\n\nHuman: A\n\nHuman: B\n\nAssistant: C", "\n\nHuman: A\n\nHuman: B\n\nAssistant: D", "follow each other"),
        ("Why? Because.", HH_REJECTED, "not a pair"),
    ],
)
def test_dialogues_that_make_no_pair_are_dropped_with_the_reason(chosen, rejected, reason):
    with pytest.raises(SawyerError, match=reason):
        hh_comparison({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize(("score", "reason"), [([1, 1], "the same score"), ([float("nan"), 1], "not a finite number")])
def test_dialogues_whose_scores_prefer_none_are_dropped(score, reason):
    with pytest.raises(SawyerError, match=reason):
        hh_comparison({"text": [HH_CHOSEN, HH_REJECTED], "score": score})


def test_a_gzipped_file_of_dialogues_is_read(tmp_path):
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"chosen": HH_CHOSEN, "rejected": HH_REJECTED}).encode() + b"\n"))
    assert load_hh(path)[0] == [PAIR]
    assert load_any(path)[0] == [PAIR]


@pytest.mark.parametrize(
    "good",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"chosen": [Q, A], "rejected": [Q, B]},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "No."}},
    ],
)
def test_a_comparison_that_lacks_a_side_is_bad_and_says_which(tmp_path, good):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([good, {**good, "rejected": None}, good, {**good, "chosen": None}, good]))
    records, report = load_any(path, max_bad=0.5)
    assert records == [PAIR] * 3
    assert report.dropped == {"`rejected` is missing": 1, "`chosen` is missing": 1}
