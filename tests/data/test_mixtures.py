"""Mixtures take each source with its cleaning, in shares, and say what each gave."""

import gzip
import json

import pytest
from pydantic import TypeAdapter, ValidationError

from sawyer.data.mixtures import MIXTURES
from sawyer.data.public.catalog import PUBLIC_SETS
from sawyer.data.sources import SourceSettings, load_source
from sawyer.data.statistics import by_source
from sawyer.errors import SawyerError
from tests.data import layouts

settings = TypeAdapter(SourceSettings).validate_python

ROWS = {
    "shp": [layouts.shp(post=f"p{i}") for i in range(10)],
    "helpsteer": layouts.RATED,
    "pku": [layouts.pku()],
    "ultrafeedback": [layouts.ultrafeedback((5,) * 4, (2,) * 4, (1,) * 4)],
    "ultrainteract": [layouts.interact()],
    "code-ultrafeedback": [layouts.code("2", "5")],
    "argilla-math": [
        {
            "instruction": "1 + 1?",
            "chosen_response": "2",
            "chosen_rating": 9,
            "rejected_response": "3",
            "rejected_rating": 1,
        }
    ],
    "orca": [layouts.orca([9.0, 7.0])],
    "capybara": [layouts.capybara()],
    "summarize": [layouts.summary()],
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a copy of each set: SHP as a file, the others as folders, HH with its subsets."""
    for name, rows in ROWS.items():
        layouts.write(tmp_path, rows, "shp.jsonl" if name == "shp" else f"{name}/train.jsonl")
    for subset in ("helpful-base", "harmless-base"):
        asked = f"\n\nHuman: Tell me of {subset}\n\nAssistant:"
        line = json.dumps({"chosen": f"{asked} Yes.", "rejected": f"{asked} No."}).encode() + b"\n"
        place = tmp_path / "hh" / subset
        place.mkdir(parents=True)
        (place / "train.jsonl.gz").write_bytes(gzip.compress(line))
    return tmp_path


def test_the_named_mixtures_are_the_papers():
    assert MIXTURES["mix1"] == ("hh", "shp", "ultrafeedback", "summarize")
    assert len(set(MIXTURES["mix2"])) == 10
    assert {name for names in MIXTURES.values() for name in names} <= {"hh", *PUBLIC_SETS}


def test_a_named_mixture_is_read_from_a_folder_of_copies(folder):
    said = []
    records, report = load_source(settings({"source": "mixture", "name": "mix1", "folder": str(folder)}), said.append)
    assert by_source(records) == {"hh": 1, "shp": 10, "ultrafeedback": 3, "summarize": 1}
    assert records[0].prompt[0]["content"] == "Tell me of helpful-base"
    assert report.kept == 15
    assert "shp: 10 records" in said
    ten, _ = load_source(settings({"source": "mixture", "name": "mix2", "folder": str(folder), "limit_each": 2}))
    assert list(by_source(ten)) == list(MIXTURES["mix2"])
    assert by_source(ten)["shp"] == 2


def test_what_each_source_drops_is_said_with_its_name(folder):
    layouts.write(folder, [*ROWS["shp"], layouts.shp(a=3, b=2)], "shp.jsonl")
    _, report = load_source(settings({"source": "mixture", "name": "mix1", "folder": str(folder)}))
    assert report.dropped == {"shp: the votes are in a ratio of 2 or less": 1}


def test_parts_have_weights_and_limits(folder):
    shp = {"source": "shp", "path": str(folder / "shp.jsonl")}
    orca = {"source": "orca", "path": str(folder / "orca")}
    mixture = {"source": "mixture", "parts": [{"data": shp, "weight": 0.3}, {"data": orca}]}
    records, report = load_source(settings(mixture))
    assert by_source(records) == {"shp": 3, "orca": 1}
    assert report.dropped == {"shp: not drawn": 7}
    assert records == load_source(settings(mixture))[0]
    assert {load_source(settings({**mixture, "seed": seed}))[0][0].prompt[0]["content"] for seed in range(9)} != {
        records[0].prompt[0]["content"]
    }
    limited = {"source": "mixture", "parts": [{"data": {**shp, "limit": 4}}], "limit": 2, "shuffle_seed": 0}
    assert len(load_source(settings(limited))[0]) == 2


def test_the_commits_of_its_sources_are_told(monkeypatch):
    import datasets

    rows = {"stanfordnlp/SHP": ROWS["shp"], "some/set": [{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}]}
    monkeypatch.setattr(datasets, "load_dataset", lambda repo, **where: layouts.Loaded(rows[repo]))
    parts = [{"data": {"source": "shp"}}, {"data": {"source": "hub", "repo": "some/set"}}]
    _, report = load_source(settings({"source": "mixture", "parts": parts}))
    assert report.revisions == dict.fromkeys(rows, "ab" * 20)


def test_parts_of_different_kinds_are_refused(folder):
    shp = {"source": "shp", "path": str(folder / "shp.jsonl")}
    prompts = {"source": "verifiable", "n": 2}
    with pytest.raises(SawyerError, match="different records, comparisons and prompts"):
        load_source(settings({"source": "mixture", "parts": [{"data": shp}, {"data": prompts}]}))


def test_a_missing_copy_is_one_sentence(folder):
    (folder / "shp.jsonl").unlink()
    with pytest.raises(SawyerError, match="holds no copy of shp; put its files there"):
        load_source(settings({"source": "mixture", "name": "mix1", "folder": str(folder)}))


def test_errors_of_a_part_name_it(folder):
    layouts.write(folder, [{"a": 1}], "orca/train.jsonl")
    with pytest.raises(SawyerError, match=r"^orca: orca \(train.jsonl\): 1 of 1 rows cannot be used"):
        load_source(settings({"source": "mixture", "name": "mix2", "folder": str(folder)}))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({}, "give either `name` or `parts`"),
        ({"name": "mix1", "parts": [{"data": {"source": "shp"}}]}, "give either `name` or `parts`"),
        ({"parts": [{"data": {"source": "shp"}}], "folder": "x"}, "belong to a mixture by `name`"),
        ({"parts": [{"data": {"source": "shp"}}], "max_bad": 0.5}, "belong to a mixture by `name`"),
        ({"parts": [{"data": {"source": "mixture", "name": "mix1"}}]}, "does not match any of the expected tags"),
        ({"parts": [{"data": {"source": "shp"}, "weight": 2}]}, "less than or equal to 1"),
        ({"name": "mix3"}, "'mix1' or 'mix2'"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(wrong, problem):
    with pytest.raises(ValidationError, match=problem):
        settings({"source": "mixture", **wrong})


def test_the_share_of_bad_rows_holds_for_each_set_of_a_name(folder):
    layouts.write(folder, [*ROWS["shp"], {"post_id": "x"}, {"post_id": "y"}], "shp.jsonl")
    mixture = {"source": "mixture", "name": "mix1", "folder": str(folder)}
    with pytest.raises(SawyerError, match=r"^shp: .*2 of 12 rows cannot be used, more than the share of 0\.1"):
        load_source(settings(mixture))
    assert by_source(load_source(settings({**mixture, "max_bad": 0.2}))[0])["shp"] == 10


def test_what_is_not_drawn_of_two_parts_of_one_source_adds_up(folder):
    layouts.write(folder, [layouts.shp(post=f"q{i}") for i in range(10)], "more.jsonl")
    parts = [
        {"data": {"source": "shp", "path": str(folder / name)}, "weight": 0.5} for name in ("shp.jsonl", "more.jsonl")
    ]
    records, report = load_source(settings({"source": "mixture", "parts": parts}))
    assert (len(records), report.dropped) == (10, {"shp: not drawn": 10})
