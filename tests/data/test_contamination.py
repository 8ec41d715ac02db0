"""Prompts that share a run of words with an evaluation prompt are found, whatever the file it is in."""

import json

import pytest

from sawyer.data.contamination import (
    EvaluationPrompt,
    Index,
    evaluation_prompts,
    overlaps,
    shared_prompts,
    without_overlaps,
)
from sawyer.data.files import write_rows
from sawyer.data.records import Comparison, Conversation, Prompt, assistant, user
from sawyer.errors import SawyerError

LONG = "A farmer has seventeen sheep and all but nine of them run away over the hill how many are left"


def index(*texts, n=13):
    return Index([EvaluationPrompt(f"e:{i}", text) for i, text in enumerate(texts, start=1)], n)


def test_a_run_of_words_is_found_whatever_case_and_punctuation():
    inside = f"Solve this: {LONG.upper().replace(' ', ', ')}! Thank you."
    records = [Prompt((user("What is a fjord?"),)), Prompt((user(inside),))]
    (found,) = overlaps(records, index("Another question.", LONG))
    assert (found.record, found.evaluation.where) == (1, "e:2")
    assert len(found.shared.split()) == 13


def test_twelve_equal_words_are_no_overlap_of_thirteen_but_one_of_eight():
    record = Prompt((user(" ".join(LONG.split()[:12]) + " but then"),))
    assert not list(overlaps([record], index(LONG)))
    assert len(list(overlaps([record], index(LONG, n=8)))) == 1


def test_a_short_evaluation_prompt_overlaps_only_as_a_whole():
    records = [Prompt((user("what is a FJORD"),)), Prompt((user("What is a fjord, and what is a loch?"),))]
    assert [found.record for found in overlaps(records, index("What is a fjord?"))] == [0]


def test_every_turn_of_the_user_counts_and_no_answer_does():
    talk = Conversation((user("Hi"), assistant(LONG), user("Why?"), assistant("Because.")))
    asked = Comparison((user("Hi"), assistant("Hello"), user(LONG)), ("9", "17"))
    assert [found.record for found in overlaps([talk, asked], index(LONG))] == [1]


def test_overlapping_records_are_dropped():
    records = [Prompt((user("What is a fjord?"),)), Prompt((user(LONG),))]
    assert without_overlaps(records, index(LONG)) == (records[:1], 1)
    with pytest.raises(SawyerError, match="all 1 records overlap"):
        without_overlaps(records[1:], index(LONG))


def test_evaluation_prompts_are_read_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("One?\n\nTwo?\n")
    (tmp_path / "b.csv").write_text('Type,Question,Answer\nx,"Three,\nreally?",y\n')
    (tmp_path / "c.jsonl").write_text(json.dumps({"question_id": 1, "turns": ["Four?", "Five?"]}) + "\n")
    write_rows(tmp_path / "d.parquet", [{"instruction": "Six?", "output": "6"}])
    (tmp_path / "e.json").write_text(json.dumps([{"prompt": [user("Seven?"), assistant("7")]}, {"prompt": ""}]))
    (tmp_path / "notes.md").write_text("no data")
    found = {prompt.where: prompt.text for prompt in evaluation_prompts(tmp_path)}
    assert found == {
        "a.txt:1": "One?",
        "a.txt:3": "Two?",
        "b.csv:2": "Three,\nreally?",
        "c.jsonl:1": "Four?\nFive?",
        "d.parquet:1": "Six?",
        "e.json:1": "Seven?",
    }
    (only,) = evaluation_prompts(tmp_path / "d.parquet", field="output")
    assert only.text == "6"


def test_files_without_prompts_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"answer": "5"}\n')
    with pytest.raises(SawyerError, match=r"no row of .* has a prompt in any of the fields prompt, .*: answer"):
        evaluation_prompts(tmp_path / "a.jsonl")
    with pytest.raises(SawyerError, match="in the field 'q'"):
        evaluation_prompts(tmp_path / "a.jsonl", field="q")
    with pytest.raises(SawyerError, match="not a file of evaluation prompts"):
        evaluation_prompts(tmp_path / "a.docx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SawyerError, match="holds no file of evaluation prompts"):
        evaluation_prompts(tmp_path / "empty")
    (tmp_path / "b.csv").write_bytes(b"prompt\n\xff\n")
    with pytest.raises(SawyerError, match="not UTF-8"):
        evaluation_prompts(tmp_path / "b.csv")


def test_a_table_with_more_cells_than_names_is_one_sentence(tmp_path):
    (tmp_path / "a.csv").write_text("# dataset_version=1\nobjective,answer\nWhy?,Because.\n")
    with pytest.raises(SawyerError, match=r"has a prompt in any of the fields .*: # dataset_version=1, None\)"):
        evaluation_prompts(tmp_path / "a.csv")


def test_of_dialogues_only_what_people_say_counts(tmp_path):
    asked = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    rows = [
        {"chosen": f"{asked} Because.", "rejected": f"{asked} No."},
        {"text": [f"{asked} Because.", f"{asked} No."]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    ]
    write_rows(tmp_path / "a.jsonl", rows)
    assert [prompt.text for prompt in evaluation_prompts(tmp_path / "a.jsonl")] == ["Hi\nWhy?", "Hi\nWhy?", "Hi"]


def test_prompts_that_were_trained_on_are_found_with_where():
    long = "Write a poem about the river that runs through the old town and under the bridge of stone"
    asked = ["What is a glacier?", f"Please: {long}", long, "Why is the sky blue?"]
    trained = [
        EvaluationPrompt("a:1", "WHAT is a glacier"),
        EvaluationPrompt("a:2", f"{long}, and a song"),
        EvaluationPrompt("a:3", "Why is the sky blue? And the sea?"),
    ]
    found = shared_prompts(asked, trained)
    assert {place: prompt.where for place, prompt in found.items()} == {0: "a:1", 1: "a:2", 2: "a:2"}
    assert shared_prompts(asked, []) == {}
