"""Rows of published sets that cannot be used are counted and named, wherever they come from. All rows are invented."""

import gzip
import json
import weakref

import pytest
from pydantic import TypeAdapter

from sawyer.data.files import RawRow
from sawyer.data.public.catalog import read_public
from sawyer.data.records import Comparison
from sawyer.data.sources import SourceSettings, load_source
from sawyer.errors import SawyerError
from tests.data.layouts import (
    capybara,
    dolly,
    farm,
    four_and_two,
    gpt4_llm,
    interact,
    message,
    nectar,
    orca,
    pku,
    shp,
    summary,
    tree,
    ultrafeedback,
    webgpt,
    write,
)


def pairs(records):
    return [(record.chosen, record.rejected) for record in records]


def good_orca():
    return orca([9.0, 7.0])


@pytest.mark.parametrize(
    ("source", "good", "bad", "reason"),
    [
        ("shp", shp, {"human_ref_A": None}, "`human_ref_A` is missing"),
        ("shp", shp, {"human_ref_A": " "}, "`human_ref_A` is empty"),
        ("shp", shp, {"human_ref_A": 3}, "`human_ref_A` is not text"),
        ("shp", shp, {"human_ref_A": "Short answer."}, "two completions are the same text"),
        ("shp", shp, {"score_A": "many"}, "`score_A` is not a number"),
        ("shp", shp, {"score_A": True}, "`score_A` is not a number"),
        ("shp", shp, {"score_A": 10**400}, "`score_A` is not a number"),
        ("shp", shp, {"score_A": "inf"}, "`score_A` is not a finite number"),
        ("shp", shp, {"labels": 2}, "`labels` is none of 0, 1"),
        ("pku", pku, {"is_response_0_safe": "no"}, "`is_response_0_safe` is neither true nor false"),
        ("pku", pku, {"safer_response_id": None}, "`safer_response_id` is missing"),
        ("ultrainteract", interact, {"trajectory": []}, "the prompt does not end with a turn of the user"),
        (
            "ultrainteract",
            interact,
            {"trajectory": [{"from": "user", "value": "A"}] * 2},
            "two turns of the user follow each other",
        ),
        ("ultrainteract", interact, {"rejected": "It is 2."}, "two completions are the same text"),
        ("pku", pku, {"response_0_severity_level": {"a": 1}}, "`response_0_severity_level` is not a number"),
        ("orca", good_orca, {"rating": "high"}, "`rating` is not a list"),
        ("orca", good_orca, {"rating": [9.0, "x"]}, "`rating` is not a number"),
        ("orca", good_orca, {"rating": [9.0, "inf"]}, "`rating` is not a finite number"),
        (
            "oasst",
            tree,
            {"prompt": {**message("x", "Hm?", "prompter"), "replies": {"a": 1}}},
            "`replies` is not a list",
        ),
        ("oasst", tree, {"prompt": message("x", "Why?", "prompter", replies=["a"])}, "a reply is not an object"),
        ("summarize", summary, {"info": "none"}, "`info` is missing or not an object"),
        ("webgpt", lambda: webgpt(0.5), {"question": "Why?"}, "`question` is missing or not an object"),
        ("capybara", capybara, {"rejected": []}, "`rejected` does not end with an answer"),
        (
            "capybara",
            capybara,
            capybara(other=("Hi", "Hello", "How?")),
            "the two dialogues differ before the final answer",
        ),
        ("summarize", summary, {"summaries": []}, "there are not two summaries"),
        ("webgpt", lambda: webgpt(0.5), {"score_1": 0.5}, "the two scores do not add up to 0"),
        ("alpaca-farm", lambda: farm(1), {"preference": 7}, "`preference` is not between 0 and 2"),
        ("ultrafeedback", four_and_two, {"completions": "none"}, "`completions` is missing or not a list"),
        ("ultrafeedback", four_and_two, ultrafeedback((1,) * 4), "there are fewer than two completions to compare"),
        ("dolly", dolly, {"context": 7}, "`context` is not text"),
        ("dolly", dolly, {"response": " "}, "`response` is empty"),
        ("gpt4-llm", lambda: gpt4_llm(1, 2, 3), {"user_input": "### Input:\n"}, "`user_input` has no instruction"),
    ],
)
def test_bad_rows_are_counted_by_reason_and_refused_above_a_share(load, source, good, bad, reason):
    broken = {**good(), **bad}
    records, report = load(source, [good(), broken], max_bad=0.5)
    assert records
    assert report.dropped[reason] == 1
    with pytest.raises(SawyerError, match=r"1 of 2 rows cannot be used.*the first is train.jsonl:2: "):
        load(source, [good(), broken])


def test_broken_lines_are_counted_too(tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(shp(post=f"p{i}")).encode() for i in range(4)]
    path.write_bytes(b"\n".join([*lines, b"{", b"\xff\xfe", b"[1]", lines[0]]) + b"\n")
    settings = TypeAdapter(SourceSettings).validate_python({"source": "shp", "path": str(path), "max_bad": 0.5})
    records, report = load_source(settings)
    assert len(records) == 4
    assert report.dropped == {
        "the line is not valid JSON": 1,
        "the line is not UTF-8 text": 1,
        "the row is not a JSON object": 1,
        "the record was there before": 1,
    }


def test_a_set_of_which_nothing_is_left_says_why(load):
    with pytest.raises(SawyerError, match=r"nothing is left of 1 rows after cleaning \(1 the votes are in a ratio"):
        load("shp", [shp(a=3, b=2)])


def test_a_folder_gives_the_files_of_its_split(tmp_path):
    write(tmp_path, [shp(post="p1")], "askcooks/train.jsonl")
    write(tmp_path, [shp(post="p2")], "askcooks/validation.jsonl")
    (tmp_path / "more-train-00000-of-00001.jsonl.gz").write_bytes(
        gzip.compress(json.dumps(shp(post="p3")).encode() + b"\n")
    )
    adapter = TypeAdapter(SourceSettings)

    def prompts(split):
        records, _ = load_source(adapter.validate_python({"source": "shp", "path": str(tmp_path), "split": split}))
        return [record.prompt[0]["content"][-3:-1] for record in records]

    assert prompts("train") == ["p1", "p3"]
    assert prompts("validation") == ["p2"]
    assert sorted(prompts("none")) == ["p1", "p2", "p3"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SawyerError, match="holds no file of data"):
        load_source(adapter.validate_python({"source": "shp", "path": str(tmp_path / "empty")}))


def test_the_hub_is_asked_where_each_set_lies(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repo, **where):
        asked.append((repo, where))
        return [summary()] if "summarize" in repo else [shp()]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    adapter = TypeAdapter(SourceSettings)
    assert isinstance(load_source(adapter.validate_python({"source": "shp", "split": "test"}))[0][0], Comparison)
    load_source(adapter.validate_python({"source": "summarize"}))
    assert asked == [
        ("stanfordnlp/SHP", {"split": "test", "revision": None}),
        (
            "openai/summarize_from_feedback",
            {"split": "train", "data_dir": "comparisons", "revision": "refs/convert/parquet"},
        ),
    ]


@pytest.mark.parametrize("annotations", [[], "none", None, {"honesty": "5"}, {"honesty": [5]}])
def test_annotations_of_another_shape_are_no_rating(load, annotations):
    row = ultrafeedback((5,) * 4, (2,) * 4, (1,) * 4)
    row["completions"][1]["annotations"] = annotations
    records, report = load("ultrafeedback", [row])
    assert pairs(records) == [("River 0.", "River 2.")]
    assert report.dropped == {"a completion that is not rated": 1}


def test_what_cannot_be_written_stays_out_of_info(load):
    assert "prompt_source" not in load("nectar", [nectar([1, 2], source={"a": 1})])[0][0].info
    assert load("nectar", [nectar([1, 2], source="sharegpt")])[0][0].info["prompt_source"] == "sharegpt"
    (record,), _ = load("orca", [orca([9.0, 7.0], labelling_model={"a": 1})])
    assert record.info["labelled_by"].startswith("an AI judge")


def test_bad_rows_of_files_with_one_name_are_told_apart(tmp_path):
    for folder in ("askcooks", "askvets"):
        write(tmp_path, [*(shp(post=f"{folder}{i}") for i in range(4)), shp(human_ref_A=None)], f"{folder}/train.jsonl")
    settings = {"source": "shp", "path": str(tmp_path), "max_bad": 0.2}
    records, report = load_source(TypeAdapter(SourceSettings).validate_python(settings))
    assert len(records) == 8
    assert report.examples["`human_ref_A` is missing"] == ["askcooks/train.jsonl:5", "askvets/train.jsonl:5"]
    with pytest.raises(SawyerError, match="2 of 10 rows cannot be used"):
        load_source(TypeAdapter(SourceSettings).validate_python({**settings, "max_bad": 0.1}))


def test_rows_are_not_kept_in_memory():
    seen, most = [], 0

    def rows():
        nonlocal most
        for number in range(1, 101):
            row = RawRow(number, shp(post=f"p{number}"))
            seen.append(weakref.ref(row))
            most = max(most, sum(one() is not None for one in seen))
            yield row

    settings = TypeAdapter(SourceSettings).validate_python({"source": "shp", "path": "x"})
    assert len(read_public(settings, [("a.jsonl", rows())])[0]) == 100
    assert most < 5
