"""RewardBench's rows, in the published columns."""

import gzip
import json

import pytest

from sawyer.data.files import write_records, write_rows
from sawyer.data.records import Comparison, user
from sawyer.data.rewardbench import HUB_PRIOR, PRIOR_SETS, load_bench
from sawyer.errors import SawyerError


def pair(**changes):
    row = {
        "prompt": "How many moons has Mars?",
        "chosen": "Two.",
        "chosen_model": "careful",
        "rejected": "Seven, all of them made of cheese.",
        "rejected_model": "hasty",
        "subset": "alpacaeval-easy",
        "id": 7,
    }
    return {**row, **changes}


def four(**changes):
    row = {
        "id": "12",
        "prompt": "How many moons has Mars?",
        "chosen": ["Two."],
        "rejected": ["One.", "Three.", "None."],
        "num_correct": 1,
        "num_incorrect": 3,
        "total_completions": 4,
        "models": ["a", "b", "c", "d"],
        "subset": "Math",
    }
    return {**row, **changes}


def test_version_1_as_published(tmp_path):
    write_rows(tmp_path / "filtered-00000-of-00001.parquet", [pair(), pair(subset="xstest-should-refuse", id=8)])
    bench = load_bench(tmp_path)
    assert bench.version == 1
    trial = bench.trials[0]
    assert (trial.id, trial.subset) == ("7", "alpacaeval-easy")
    assert trial.prompt.prompt == ({"role": "user", "content": "How many moons has Mars?"},)
    assert trial.completions == ("Two.", "Seven, all of them made of cheese.")
    assert (trial.chosen_source, trial.rejected_source) == ("careful", "hasty")
    assert trial.prompt_id == bench.trials[1].prompt_id


def test_records_of_ones_own_say_who_wrote_what(tmp_path):
    record = Comparison((user("Why?"),), ("Because.", "No."), None, {"models": ["careful", "hasty"]})
    write_records(tmp_path / "pairs.jsonl", [record, Comparison((user("How?"),), ("So.", "No."))])
    sources = [(t.chosen_source, t.rejected_source) for t in load_bench(tmp_path / "pairs.jsonl").trials]
    assert sources == [("careful", "hasty"), (None, None)]


@pytest.mark.parametrize("name", ["b.jsonl", "b.json", "b.jsonl.gz", "b.parquet"])
def test_version_2_as_published(tmp_path, name):
    tied = four(id="tied:3", subset="ties", chosen=["Red.", "Blue."], rejected=["Soup."], num_correct=2)
    write_rows(tmp_path / name, [four(), tied])
    bench = load_bench(tmp_path / name)
    assert bench.version == 2
    assert [trial.subset for trial in bench.trials] == ["Math", "Ties"]
    assert bench.trials[1].chosen == ("Red.", "Blue.")
    assert bench.trials[0].rejected == ("One.", "Three.", "None.")


def test_multi_turn_prompts_of_the_prior_sets(tmp_path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Name a river."},
    ]
    row = pair(prompt=turns, subset="helpful")
    for name in PRIOR_SETS:
        write_rows(tmp_path / f"{name}-00000-of-00001.parquet", [row])
    bench = load_bench(tmp_path)
    assert {trial.subset for trial in bench.trials} == set(PRIOR_SETS)
    assert bench.trials[0].prompt.text == "Name a river."
    assert len(bench.trials[0].prompt.prompt) == 3


def test_the_raw_split_is_left_out_beside_the_filtered_one(tmp_path):
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "raw-00000-of-00001.parquet", [pair(), pair()])
    write_rows(tmp_path / "data" / "filtered-00000-of-00001.parquet", [pair()])
    bench = load_bench(tmp_path)
    assert len(bench.trials) == 1
    assert bench.left_out == ["raw-00000-of-00001.parquet: not the split `filtered`"]


def test_a_row_without_subset_belongs_to_its_file(tmp_path):
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    write_rows(tmp_path / "mine.jsonl", [row])
    trial = load_bench(tmp_path / "mine.jsonl").trials[0]
    assert (trial.subset, trial.id) == ("mine", "mine:1")


def test_pairs_in_other_formats_are_read(tmp_path):
    dialogue = "\n\nHuman: Why?\n\nAssistant:"
    write_rows(tmp_path / "hh.jsonl", [{"chosen": f"{dialogue} Because.", "rejected": f"{dialogue} No."}])
    trial = load_bench(tmp_path / "hh.jsonl").trials[0]
    assert trial.completions == ("Because.", "No.")


BAD = {
    "no rejected": (pair(rejected=None), "`rejected` is missing"),
    "the same": (pair(rejected="Two."), "same text"),
    "empty": (pair(chosen=" "), "an answer is empty"),
    "no text": (pair(chosen=5), "wrong type|not a list|list"),
    "two turns of the user": (
        pair(prompt=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        "two turns of the user follow each other",
    ),
    "no name": (pair(subset=3), "`subset` is not a name"),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD)
def test_bad_rows_are_counted_and_the_rest_is_kept(tmp_path, row, reason):
    write_rows(tmp_path / "b.jsonl", [pair(), row, pair()])
    bench = load_bench(tmp_path / "b.jsonl", max_bad=0.4)
    assert len(bench.trials) == 2
    ((found, count),) = bench.report.dropped.items()
    assert count == 1
    assert any(part in found for part in reason.split("|"))
    assert bench.report.examples[found] == ["b.jsonl:2"]
    with pytest.raises(SawyerError, match=r"1 of 3 rows cannot be used, more than the share of 0\.05"):
        load_bench(tmp_path / "b.jsonl")


BAD_2 = {
    "same answer on both sides": four(rejected=["Two.", "One.", "Three."]),
    "wrong count": four(num_correct=2),
    "no rejected": four(rejected=[]),
    "ties without a group": four(subset="Ties"),
    "empty answer": four(rejected=["", "One.", "Three."]),
    "no prompt": four(prompt=None),
}


@pytest.mark.parametrize("row", BAD_2.values(), ids=BAD_2)
def test_bad_rows_of_version_2(tmp_path, row):
    write_rows(tmp_path / "b.jsonl", [four(), row])
    bench = load_bench(tmp_path / "b.jsonl", max_bad=0.5)
    assert (len(bench.trials), sum(bench.report.dropped.values())) == (1, 1)


def test_broken_utf8_is_a_bad_row(tmp_path):
    lines = [json.dumps(pair()).encode(), b'{"prompt": "\xff"}', json.dumps(pair()).encode()]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    assert load_bench(tmp_path / "b.jsonl.gz", max_bad=0.5).report.dropped == {"the line is not UTF-8 text": 1}


def test_limit_keeps_the_first_of_each_subset_and_both_halves_of_a_tie(tmp_path):
    rows = [four(id=str(i)) for i in range(3)]
    for i in range(3):
        rows.append(four(id=f"ref:{i}", subset="Ties"))
        rows.append(four(id=f"tied:{i}", subset="Ties", chosen=["a", "b"], rejected=["c"], num_correct=2))
    write_rows(tmp_path / "b.jsonl", rows)
    kept = [trial.id for trial in load_bench(tmp_path / "b.jsonl", limit=2).trials]
    assert kept == ["0", "1", "ref:0", "tied:0", "ref:1", "tied:1"]


def test_mistakes_are_one_sentence(tmp_path):
    write_rows(tmp_path / "one.jsonl", [pair()])
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write_rows(mixed / "1.jsonl", [pair()])
    write_rows(mixed / "2.jsonl", [four()])
    bare = tmp_path / "bare"
    bare.mkdir()
    calls = [
        lambda: load_bench(tmp_path / "nowhere.jsonl"),
        lambda: load_bench(bare),
        lambda: load_bench(mixed),
        lambda: load_bench(tmp_path / "one.jsonl", 2),
        lambda: load_bench(tmp_path / "one.jsonl", 3),
        lambda: load_bench(tmp_path / "one.jsonl", limit=0),
    ]
    for call in calls:
        with pytest.raises(SawyerError) as error:
            call()
        assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_the_published_splits(monkeypatch):
    asked = []

    def rows(repo, split, **where):
        from sawyer.data.files import RawRow

        asked.append((repo, split))
        return [RawRow(1, four() if repo.endswith("-2") else pair())], {repo: "ab" * 20}

    monkeypatch.setattr("sawyer.data.rewardbench.hub_rows", rows)
    bench = load_bench("hub", prior=True)
    assert asked[0] == ("allenai/reward-bench", "filtered")
    assert [split for _, split in asked[1:]] == list(PRIOR_SETS)
    assert [trial.subset for trial in bench.trials] == ["alpacaeval-easy", *PRIOR_SETS]
    assert bench.report.as_dict()["revisions"] == {"allenai/reward-bench": "ab" * 20, HUB_PRIOR: "ab" * 20}
    assert load_bench("hub", 2).version == 2
    assert asked[-1] == ("allenai/reward-bench-2", "test")
