"""Labels of several raters from plain files."""

import json
from pathlib import Path

import pytest

from sawyer.data.labels import read_labels
from sawyer.errors import SawyerError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, text):
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_every_column_but_id_and_prompt_is_a_rater():
    found = read_labels([write("l.csv", "id,prompt,ann,judge\n1,p,4,5.0\n2,p,,tie\n3,q,NA,nan\n")])
    assert found.ids == ["1", "2", "3"]
    assert found.prompts == ["p", "p", "q"]
    assert found.raters == {"ann": [4.0, None, None], "judge": [5.0, "tie", None]}
    assert found.notes == []


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_spreadsheets_write_is_read_too(separator):
    text = separator.join(["id", "ann", "bob"]) + "\r\n" + separator.join(["1", "4", "5"]) + "\r\n"
    assert read_labels([write("l.csv", "\ufeff" + text)]).raters == {"ann": [4.0], "bob": [5.0]}


def test_the_same_labels_as_jsonl_are_the_same():
    csv = read_labels([write("l.csv", "id,prompt,ann,judge\n1,p,4,A\n2,q,,B\n")])
    rows = [{"id": 1, "prompt": "p", "ann": 4, "judge": "A"}, {"id": 2, "prompt": "q", "ann": None, "judge": "B"}]
    assert read_labels([write("l.jsonl", "".join(json.dumps(row) + "\n" for row in rows))]) == csv


def test_without_id_or_prompt_every_row_is_an_item_of_its_own():
    found = read_labels([write("l.csv", "ann,bob\n1,2\n1,3\n")])
    assert found.ids == found.prompts == ["2", "3"]
    assert not found.has_prompts


def test_columns_that_tell_what_was_compared_are_no_raters():
    text = "id,a,b,a_model,b_model,judge,judge:swapped\n1,Yes.,No.,m,n,A,B\n"
    found = read_labels([write("l.csv", text)])
    assert list(found.raters) == ["judge"]
    assert found.swapped == {"judge": ["B"]}
    assert found.context == {"a": ["Yes."], "b": ["No."], "a_model": ["m"], "b_model": ["n"]}
    chosen = read_labels([write("l.csv", "id,a,b,other\n1,4,5,6\n")], only=["a", "b"])
    assert chosen.raters == {"a": [4.0], "b": [5.0]}
    assert chosen.context == {}
    with pytest.raises(SawyerError, match=r"--rater c: no file has that column; there are id, a, b, other"):
        read_labels(["l.csv"], only=["c"])


def test_files_are_joined_by_id_in_any_order():
    write("people.csv", "id,prompt,ann\n1,p,4\n2,q,5\n")
    write("judge.jsonl", '{"id": "2", "judge": 3}\n{"id": 1, "judge": 2}\n')
    found = read_labels(["people.csv", "judge.jsonl"])
    assert found.raters == {"ann": [4.0, 5.0], "judge": [2.0, 3.0]}
    assert found.prompts == ["p", "q"]
    assert found.notes == []


def test_ids_that_one_file_lacks_are_named_and_stay_items_of_the_other():
    write("people.csv", "id,ann\n1,4\n2,5\n3,1\n")
    write("judge.csv", "id,judge\n1,4\n2,5\n9,1\n8,2\n")
    found = read_labels(["people.csv", "judge.csv"])
    assert found.ids == ["1", "2", "3", "9", "8"]
    assert found.raters["judge"] == [4.0, 5.0, None, 1.0, 2.0]
    assert found.notes == [
        "judge.csv: 2 ids unknown to people.csv (9, 8)",
        "judge.csv: 1 id of people.csv missing (3)",
    ]


def test_a_rater_of_the_same_name_in_two_files_is_called_after_its_file():
    write("people.csv", "id,label\n1,4\n")
    write("judge.csv", "id,label,label:swapped\n1,5,1\n")
    found = read_labels(["people.csv", "judge.csv"])
    assert found.raters == {"people.label": [4.0], "judge.label": [5.0]}
    assert found.swapped == {"judge.label": [1.0]}
    with pytest.raises(SawyerError, match=r"two files hold a rater called 'people\.label'"):
        read_labels(["people.csv", "people.csv"])


def test_swapped_verdicts_may_stand_in_a_file_of_their_own():
    write("first.csv", "id,judge\n1,A\n")
    write("second.csv", "id,judge:swapped,nobody:swapped\n1,B,A\n")
    found = read_labels(["first.csv", "second.csv"])
    assert found.swapped == {"judge": ["B"]}
    assert found.notes == ["column 'nobody:swapped' of second.csv belongs to no rater and is left out"]


def test_bad_rows_are_left_out_and_named():
    text = "id,prompt,ann,bob\n1,p,4,5\n1,p,3,3\n,p,1,1\n2,p,4,5,6\n3,,1,2\n"
    found = read_labels([write("l.csv", text)])
    assert found.ids == ["1", "3"]
    assert found.raters["ann"] == [4.0, 1.0]
    assert found.notes == [
        "l.csv: 1 row with more cells than the header left out (row 5)",
        "l.csv: 1 row without an `id` left out (row 4)",
        "l.csv: 1 id on several rows, of which the first is taken (1)",
        "1 item without a prompt, each of which counts as one of its own (3)",
    ]
    found = read_labels([write("l.jsonl", '{"id": 1, "ann": 2}\n{oh\n[1]\n')])
    assert found.notes == ["l.jsonl: 2 rows that cannot be read left out (row 2, row 3)"]


def test_prompts_that_differ_between_files_are_named():
    write("a.csv", "id,prompt,ann\n1,Why?,2\n2,How?,2\n")
    write("b.csv", "id,prompt,bob\n1,Why not?,2\n2,How?,2\n")
    found = read_labels(["a.csv", "b.csv"])
    assert found.prompts == ["Why?", "How?"]
    assert found.notes == ["1 id with another prompt in another file, of which the first is taken (1)"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "has no usable row"),
        ("id,ann\n", "has no usable row"),
        ("id,ann,ann\n1,2,3\n", "more than one column called 'ann'"),
    ],
)
def test_a_file_that_holds_nothing_is_one_sentence(text, match):
    name = write("l.csv", text)
    with pytest.raises(SawyerError, match=match):
        read_labels([name])


def test_several_files_need_ids():
    write("a.csv", "id,ann\n1,2\n")
    write("b.csv", "bob\n1\n")
    with pytest.raises(SawyerError, match=r"b\.csv has no column `id`"):
        read_labels(["a.csv", "b.csv"])
    with pytest.raises(SawyerError, match=r"there is no file c\.csv"):
        read_labels(["c.csv"])
