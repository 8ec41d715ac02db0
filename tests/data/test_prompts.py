"""Prompts from files of all kinds."""

import json

import pytest

from sawyer.data.files import write_records, write_rows
from sawyer.data.prompts import read_prompts
from sawyer.data.records import Comparison, Prompt, assistant, user
from sawyer.errors import SawyerError


def written(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def asked(file):
    return [prompt.text for prompt in file.prompts]


def test_text_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffone\r\n\n  \ntwo \u2028 parts\nlast".encode())
    file = read_prompts(path)
    assert asked(file) == ["one", "two \u2028 parts", "last"]
    assert file.rows == (1, 4, 5)


def test_rows_may_be_text_prompts_or_messages(tmp_path):
    turns = [user("a"), assistant("b"), user("c")]
    file = read_prompts(
        written(
            tmp_path / "p.jsonl",
            '"just text"',
            {"prompt": "a prompt", "info": {"k": 1}},
            {"prompt": turns},
            {"messages": turns},
            {"messages": [*turns, assistant("d")]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]},
            {"prompt": "meant", "messages": [user("not meant"), assistant("x")]},
        )
    )
    assert asked(file) == ["just text", "a prompt", "c", "c", "a", "in parts", "meant"]
    assert file.prompts[1].info == {"k": 1}
    assert file.prompts[3] == Prompt(tuple(turns))


def test_parquet_of_text_and_of_turns(tmp_path):
    write_rows(tmp_path / "text.parquet", [{"prompt": "a"}, {"prompt": "b"}])
    assert asked(read_prompts(tmp_path / "text.parquet")) == ["a", "b"]
    write_records(tmp_path / "turns.parquet", [Prompt("a", {"x": 1}), Prompt("b", {"y": [2]})])
    file = read_prompts(tmp_path / "turns.parquet")
    assert asked(file) == ["a", "b"]
    assert file.prompts[1].info == {"y": [2]}


def test_other_formats_give_their_prompts(tmp_path):
    write_records(tmp_path / "pairs.jsonl", [Comparison((user("q"),), ("good", "bad"))])
    assert asked(read_prompts(tmp_path / "pairs.jsonl")) == ["q"]
    alpaca = written(tmp_path / "alpaca.jsonl", {"instruction": "do", "input": "this", "output": "done"})
    assert asked(read_prompts(alpaca)) == ["do\n\nthis"]


def test_a_system_turn_goes_before_prompts_that_have_none(tmp_path):
    own = {"role": "system", "content": "mine"}
    path = written(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": [own, user("b")]})
    first, second = read_prompts(path, system="Be brief.").prompts
    assert first.prompt == ({"role": "system", "content": "Be brief."}, user("a"))
    assert second.prompt == (own, user("b"))


def test_bad_rows_are_told_by_number_and_the_others_kept(tmp_path):
    path = written(
        tmp_path / "p.jsonl", {"prompt": "a"}, "{", {"prompt": []}, {"prompt": 3}, "7", {"prompt": [assistant("x")]},
        {"messages": [{"role": "wizard", "content": "x"}]}, {"prompt": "b", "info": "{"}, {"prompt": "z"},
    )  # fmt: skip
    file = read_prompts(path)
    assert asked(file) == ["a", "z"]
    assert file.rows == (1, 9)
    assert [row for row, _ in file.problems] == [2, 3, 4, 5, 6, 7, 8]
    assert dict(file.problems)[2] == "the line is not valid JSON"
    assert "wizard" in dict(file.problems)[7]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", "", "is empty"),
        ("p.txt", "\n\n", "has no rows"),
        ("p.json", "[]", "has no rows"),
        ("p.csv", "a", "none of the suffixes that prompts are read from.*\\.txt"),
        ("p.jsonl", '{"question": "a"}\n', "in no format that Sawyer knows \\(keys of its first row: question\\)"),
        ("p.jsonl", "3\n", "no usable prompt among 1 rows; the first is row 1"),
        ("p.parquet", "x", "not a whole parquet file"),
    ],
)
def test_a_useless_file_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(SawyerError, match=said):
        read_prompts(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for name in ("no.jsonl", "no.txt", "no.parquet"):
        with pytest.raises(SawyerError, match="there is no file"):
            read_prompts(tmp_path / name)
        (tmp_path / name).mkdir()
        with pytest.raises(SawyerError, match="is a folder"):
            read_prompts(tmp_path / name)
