"""Reading and writing records: every way a file can be broken ends in one sentence or in a counted drop."""

import gzip
import json
import lzma
import os
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sawyer.data.files import (
    SUFFIXES,
    LoadReport,
    data_files,
    iter_rows,
    load_file,
    read_records,
    write_records,
    write_rows,
)
from sawyer.data.records import Comparison, Conversation, Labelled, Prompt, assistant, user
from sawyer.errors import SawyerError

GOOD = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


def lines(path, *rows, end="\n"):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + end, "utf-8")
    return path


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
info = st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(-9, 9), text, st.lists(st.integers(0, 9))))
record_lists = st.one_of(
    st.lists(st.builds(lambda q, i: Prompt((user(q),), i), text, info), min_size=1, max_size=4),
    st.lists(
        st.builds(lambda q, a, i: Conversation((user(q), assistant(a)), i), text, text, info), min_size=1, max_size=4
    ),
    st.lists(
        st.builds(lambda q, a, i: Comparison((user(q),), (a, a + "!"), None, i), text, text, info),
        min_size=1,
        max_size=4,
    ),
    st.lists(
        st.builds(lambda q, a: Comparison((user(q),), (a, a + "!", a + "?"), (2.0, 1.0, 0.5)), text, text),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.builds(lambda q, a, b: Labelled((user(q),), a, b), text, text, st.booleans()), min_size=1, max_size=4),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=record_lists)
def test_what_is_written_is_read_back_equal(tmp_path, suffix, records):
    path = tmp_path / f"records{suffix}"
    write_records(path, records)
    assert read_records(path) == records
    assert os.listdir(tmp_path) == [path.name]


def test_line_separators_of_unicode_do_not_split_a_row(tmp_path):
    record = Prompt((user("one\u2028two\u0085three\x0bfour"),))
    write_records(tmp_path / "a.jsonl", [record])
    assert read_records(tmp_path / "a.jsonl") == [record]


def test_jsonl_under_the_name_json_is_read(tmp_path):
    assert len(read_records(lines(tmp_path / "a.json", GOOD, GOOD))) == 2


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_no_matter(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode())
    assert len(read_records(path)) == 2


def test_bad_rows_are_dropped_and_counted_with_their_lines(tmp_path):
    path = lines(tmp_path / "a.jsonl", GOOD, {"answer": 1}, "{oops", "[1]", {**GOOD, "rejected": "Because."}, GOOD)
    records, report = load_file(path, max_bad=0.9)
    assert len(records) == report.kept == 2
    assert report.rows == 6
    assert report.dropped == {
        "a row has neither `messages` nor `prompt`": 1,
        "the line is not valid JSON": 1,
        "the row is not a JSON object": 1,
        "two completions of a comparison are the same text (chosen equals rejected)": 1,
    }
    assert report.examples["the line is not valid JSON"] == ["a.jsonl:3"]
    assert "2 of 6 rows kept" in str(report)


def test_broken_utf8_costs_its_line_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff\xfe"}\n')
    records, report = load_file(path, max_bad=0.5)
    assert len(records) == 1
    assert report.examples == {"the line is not UTF-8 text": ["a.jsonl:2"]}


@pytest.mark.parametrize(
    "row", ['{"prompt": "\\ud83d"}', '{"prompt": "a", "completions": ["b", "c"], "scores": [1, NaN]}']
)
def test_half_a_surrogate_pair_and_nan_are_refused(tmp_path, row):
    with pytest.raises(SawyerError, match="no usable row among 1; the first is row 1"):
        load_file(lines(tmp_path / "a.jsonl", row))


def test_more_bad_rows_than_allowed_are_refused_with_the_first_of_them(tmp_path):
    path = lines(tmp_path / "a.jsonl", *[GOOD] * 8, {"x": 1}, {"x": 1})
    with pytest.raises(SawyerError, match=r"2 of 10 rows cannot be used.*row 9: a row has neither.*max_bad"):
        load_file(path, max_bad=0.1)
    assert len(load_file(path, max_bad=0.2)[0]) == 8


def test_the_kind_of_a_file_is_that_of_most_of_its_rows(tmp_path):
    records, report = load_file(lines(tmp_path / "a.jsonl", {"prompt": "Why?"}, *[GOOD] * 20))
    assert len(records) == 20
    assert report.dropped == {"the row is a prompt, not a comparison": 1}


def test_rows_of_another_kind_are_not_mixed_in(tmp_path):
    path = lines(tmp_path / "a.jsonl", GOOD, {"prompt": "Why?"})
    with pytest.raises(SawyerError, match="the row is a prompt, not a comparison"):
        read_records(path)
    with pytest.raises(SawyerError, match="not a conversation"):
        read_records(path, kind=Conversation)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.jsonl", None, "there is no file"),
        ("none.parquet", None, "there is no file"),
        ("a.jsonl", b"", "is empty"),
        ("a.json", b" \n", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.json", b"[]", "has no rows"),
        ("a.jsonl", b'{"prompt": "Why?"}\n{"prompt": "W', "ends in the middle of line 2"),
        ("a.json", b'[{"prompt": "Why?"},\n{"prompt": "W', "not valid JSON at line 2.*cut off"),
        ("a.json", b'[{"prompt": "Why?"},\n{"prompt" "W"}]', "not valid JSON at line 2.*mend that line"),
        ("a.json", b'[{"prompt":\n"\xff"}]', "not UTF-8 text at line 2"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "Why?"}\n' * 50, mtime=0)[:-12], "not a whole gz file"),
        ("a.jsonl.gz", b'{"prompt": "Why?"}\n', "not a whole gz file"),
        ("a.jsonl.xz", lzma.compress(b'{"prompt": "Why?"}\n' * 50)[:-12], "not a whole xz file"),
        ("a.jsonl.xz", b'{"prompt": "Why?"}\n', "not a whole xz file"),
        ("a.parquet", b"PAR1 but not really", "not a whole parquet file"),
        ("a.csv", b"prompt\nWhy?\n", "none of the suffixes"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SawyerError, match=sentence) as caught:
        read_records(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(SawyerError, match="is a folder"):
        read_records(tmp_path / "a.jsonl")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_rows_are_read_one_after_another_and_written_so(tmp_path, monkeypatch, suffix):
    """In parquet, with columns that are not in every row, or empty in the first, or whole numbers there."""
    monkeypatch.setattr("sawyer.data.parquet.BATCH", 2)
    path = tmp_path / f"rows{suffix}"
    rows = [{"a": i, "b": None} for i in range(3)] + [{"a": 0.5, "b": ["x"], "c": {"d": i}} for i in range(3)]
    write_rows(path, rows)
    found = [row.value for row in iter_rows(path)]
    assert [(row["a"], row["b"]) for row in found] == [(row["a"], row["b"]) for row in rows]
    assert [row.get("c") for row in found] == [row.get("c") for row in rows]
    assert next(iter_rows(path)).number == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_the_memory_of_reading_and_writing_does_not_grow_with_the_file(tmp_path, suffix):
    class Rows:
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            return ({"text": "word " * 100 + str(i)} for i in range(self.n))

    def peak(n):
        path = tmp_path / f"{n}{suffix}"
        tracemalloc.start()
        try:
            write_rows(path, Rows(n))
            assert sum(len(row.value["text"]) for row in iter_rows(path)) > 500 * n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(30_000) < peak(10_000) + 500_000  # more rows than parquet holds at a time in both


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    write_records(path, [Prompt((user("old"),))])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SawyerError, match="No space left on device"):
        write_records(path, [Prompt((user("new"),))])
    monkeypatch.undo()
    assert read_records(path) == [Prompt((user("old"),))]
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_no_records_and_text_that_is_no_text_are_not_written(tmp_path):
    with pytest.raises(SawyerError, match="no records to write"):
        write_records(tmp_path / "a.jsonl", [])
    with pytest.raises(SawyerError, match="surrogate"):
        write_records(tmp_path / "a.jsonl", [Prompt((user("\ud83d"),))])
    assert os.listdir(tmp_path) == []


def test_reports_of_several_files_add_up():
    total = LoadReport(kept=1)
    for name in "ab":
        other = LoadReport(kept=2)
        for number in range(1, 4):
            other.drop("no prompt", f"{name}:{number}")
        total.add(other)
    assert (total.kept, total.dropped, total.rows) == (5, {"no prompt": 6}, 11)
    assert total.examples == {"no prompt": ["a:1", "a:2", "a:3"]}


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    broken = json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode() + b'\n{"prompt": "W'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n" + broken)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(broken * 20_000)[:-12])
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(broken * 20_000)[:-12])
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.xz"):
        rows = iter_rows(tmp_path / name)
        assert next(rows).value == GOOD
        with pytest.raises(SawyerError, match="cut off in copying"):
            list(rows)


def test_a_row_of_parquet_that_is_not_utf8_costs_itself_only(tmp_path):
    texts = pyarrow.array([b"Why?", b"\xff\xfe", b"How?"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts}), tmp_path / "a.parquet")
    records, report = load_file(tmp_path / "a.parquet", max_bad=0.5)
    assert [record.text for record in records] == ["Why?", "How?"]
    assert report.examples == {"the row is not UTF-8 text": ["a.parquet:2"]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "completions": ["a", "b"], "scores": [10**400, 1]},
        {"prompt": "Why?", "info": "[" * 200_000},
        {"prompt": "Why?", "completions": 3},
        {"prompt": "Why?", "completions": ["a", "b"], "scores": [None, 1]},
    ],
)
def test_a_value_that_no_field_can_have_costs_its_row_only(tmp_path, row):
    records, report = load_file(lines(tmp_path / "a.jsonl", GOOD, row), max_bad=0.5)
    assert len(records) == 1
    ((reason, count),) = report.dropped.items()
    assert reason.startswith("a field has the wrong type")
    assert count == 1


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_comparison_without_a_side_is_no_prompt(tmp_path, side):
    row = {name: value for name, value in GOOD.items() if name != side}
    _, report = load_file(lines(tmp_path / "a.jsonl", GOOD, row, {**GOOD, side: None}), max_bad=0.9)
    assert report.dropped == {f"`{side}` is missing": 2}


@pytest.mark.parametrize("suffix", SUFFIXES[:4])
def test_what_json_has_no_way_to_write_is_refused(tmp_path, suffix):
    for strange in (float("nan"), object()):
        with pytest.raises(SawyerError, match="holds what cannot be written"):
            write_records(tmp_path / f"a{suffix}", [Prompt((user("Why?"),), {"value": strange})])
    assert os.listdir(tmp_path) == []


def test_the_name_of_a_role_that_is_a_book_is_cut(tmp_path):
    rows = [GOOD, {"prompt": [{"role": "x" * 10_000, "content": "Why?"}]}]
    _, report = load_file(lines(tmp_path / "a.jsonl", *rows), max_bad=0.5)
    assert all(len(reason) < 200 for reason in report.dropped)


def test_what_sawyer_writes_beside_data_is_not_taken_for_data(tmp_path):
    for name in ("train.jsonl", "data.json", "manifest.json", "metrics.jsonl", ".hidden.jsonl", ".cache/a.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lines(tmp_path / name, GOOD)
    assert [file.name for file in data_files(tmp_path)] == ["train.jsonl"]


def test_a_report_without_examples_can_be_shown():
    assert str(LoadReport(kept=1, dropped={"not drawn": 2})) == "1 of 3 rows kept; dropped: 2 not drawn"
