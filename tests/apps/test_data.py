"""`sawyer data`: build, stats, show and check, on small files in the published layouts."""

import json
from functools import partial
from pathlib import Path

import pytest

from sawyer.apps.data import source_names
from sawyer.apps.show_data import visible
from sawyer.data.files import read_records, write_records
from sawyer.data.records import Comparison, Prompt, user
from sawyer.pipeline.recipe import load_recipe
from sawyer.pipeline.run import run_recipe
from tests.data import layouts

LONG = "A farmer has seventeen sheep and all but nine of them run away over the hill how many are left"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.write(tmp_path, [layouts.shp(post=f"p{i}") for i in range(40)], "shp.jsonl")
    layouts.write(tmp_path, [layouts.nectar([2, 1, 3])], "nectar.jsonl")


@pytest.fixture
def command(command):
    """Runs `sawyer data ...`; returns exit code, stdout and stderr."""
    return partial(command, "data")


# --- build ------------------------------------------------------------------------------------------------------------


def test_a_source_is_cleaned_split_and_written(command):
    layouts.write(Path(), [*(layouts.shp(post=f"p{i}") for i in range(40)), layouts.shp(post="q", a=3)], "shp.jsonl")
    shares = ("--split", "train=0.8", "--split", "test=0.2")
    code, out, err = command("build", "shp", "--path", "shp.jsonl", "--out", "made", *shares, "--set", "max_pairs=1")
    assert code == 0, err
    train, test = (read_records(f"made/{part}.jsonl", kind=Comparison) for part in ("train", "test"))
    assert len(train) + len(test) == 40
    assert out == f"{len(train)} records in train, {len(test)} records in test: made\n"
    assert "dropped 1: the votes are in a ratio of 2 or less" in err
    made = json.loads(Path("made/data.json").read_text())
    assert made["settings"]["source"]["max_pairs"] == 1
    assert made["figures"]["train"] == len(train)
    assert not list(Path().glob(".*partial"))


def test_another_split_seed_deals_other_parts(command):
    shares = ("--split", "a=0.5", "--split", "b=0.5")
    for out, seed in (("first", ()), ("again", ("--split-seed", 0)), ("other", ("--split-seed", 1))):
        assert command("build", "shp", "--path", "shp.jsonl", "--out", out, *shares, *seed)[0] == 0
    first, again, other = (Path(f"{out}/a.jsonl").read_text() for out in ("first", "again", "other"))
    assert first == again != other


def test_what_was_built_is_replaced_only_when_asked_and_other_folders_never(command):
    build = ("build", "shp", "--path", "shp.jsonl", "--out", "made")
    assert command(*build)[0] == 0
    code, _, err = command(*build)
    assert (code, err) == (2, "error: made is there already; give another --out, or --overwrite to replace it\n")
    assert command(*build, "--overwrite", "--set", "limit=3", "--json")[0] == 0
    assert len(read_records("made/train.jsonl")) == 3
    Path("made/data.json").unlink()
    code, _, err = command(*build, "--overwrite")
    assert code == 2
    assert "was not made by `sawyer data build`" in err
    assert Path("made/train.jsonl").exists()


def test_near_duplicates_stay_together_and_evaluation_prompts_go(command):
    records = [Prompt((user(f"{LONG} {i}"),)) for i in range(3)]
    write_records("eval.jsonl", records[:1])
    rows = [layouts.shp(post=f"p{i}", history=f"{LONG} in the town of {'abc'[i % 3]}{i}") for i in range(12)]
    layouts.write(Path(), [*rows, *(layouts.shp(post=f"q{i}") for i in range(40))], "shp.jsonl")
    split = ("--split", "train=0.5", "--split", "test=0.5")
    code, out, err = command(
        "build", "shp", "--path", "shp.jsonl", "--out", "a", *split, "--near-duplicates", 0.8, "--json"
    )
    assert code == 0, err
    assert "52 records in" in err
    sizes = [sum(LONG in r.prompt[0]["content"] for r in read_records(f"a/{p}.jsonl")) for p in ("train", "test")]
    assert sorted(sizes) == [0, 12]
    code, out, err = command(
        "build", "shp", "--path", "shp.jsonl", "--out", "b", *split, "--against", "eval.jsonl", "--json"
    )
    assert code == 0, err
    figures = json.loads(out)
    assert figures["dropped"] == {"the prompt overlaps with an evaluation prompt": 12}
    assert figures["train"] + figures["test"] == 40


def test_a_set_that_was_built_is_what_another_is_checked_against(command):
    command("build", "shp", "--path", "shp.jsonl", "--out", "made", "--set", "limit=10")
    code, out, err = command("build", "shp", "--path", "shp.jsonl", "--out", "rest", "--against", "made", "--json")
    assert code == 0, err
    assert json.loads(out)["train"] == 30
    code, _, err = command("build", "shp", "--path", "shp.jsonl", "--out", "none", "--against", "shp.jsonl")
    assert code == 2
    assert "no row of shp.jsonl has a prompt" in err
    write_records("eval.jsonl", read_records("made/train.jsonl") + read_records("rest/train.jsonl"))
    code, _, err = command("build", "shp", "--path", "shp.jsonl", "--out", "none", "--against", "eval.jsonl")
    assert (code, err.splitlines()[-1]) == (
        2,
        "error: part 'train': all 40 records overlap with the evaluation prompts; these are the same data",
    )


def test_a_set_may_be_built_in_the_folder_one_stands_in(command, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = command("build", "shp", "--path", tmp_path / "shp.jsonl", "--out", ".")
    assert code == 0, err
    assert sorted(file.name for file in (tmp_path / "here").iterdir()) == ["data.json", "train.jsonl"]


def test_a_recipes_data_stage_is_built_as_a_run_of_it_would(command):
    source = "{source: shp, path: shp.jsonl}"
    Path("r.yaml").write_text(
        f"name: r\nmodel: none\nstages:\n  pairs: {{stage: data, source: {source}, split: {{train: 0.5, test: 0.5}}}}\n"
    )
    code, _, err = command("build", "r.yaml", "--out", "made", "--set", "stages.pairs.source.limit=30")
    assert code == 0, err
    folder = run_recipe(load_recipe("r.yaml", ["stages.pairs.source.limit=30"]), Path("run"))
    for part in ("train", "test"):
        assert Path(f"made/{part}.jsonl").read_text() == (folder / "pairs" / f"{part}.jsonl").read_text()


def test_a_recipes_length_filter_counts_the_tokens_of_its_model(command, saved_policy):
    filtered = "source: {source: shp, path: shp.jsonl}, max_prompt_tokens: 2, tokens_of"
    stages = f"  sft: {{model: base, data: pairs}}\n  cut: {{stage: data, {filtered}: sft}}\n"
    Path("r.yaml").write_text(
        f"name: r\nmodel: {saved_policy('llama')}\nstages:\n  pairs: {{stage: data, {filtered}: base}}\n{stages}"
    )
    settings = ("--stage", "pairs", "--out", "made")
    code, _, err = command("build", "r.yaml", *settings, "--set", "stages.pairs.max_prompt_tokens=500")
    assert code == 0, err
    assert len(list(read_records(Path("made/train.jsonl")))) == 40
    code, _, err = command("build", "r.yaml", "--stage", "cut", "--out", "cut")
    assert code == 2
    assert "r.yaml:6: 'sft' is a stage, whose model is not there before a run; name a model of the recipe" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("shpp",), "there is no source and no recipe called 'shpp'; did you mean 'shp'?"),
        (("shp", "--path", "none.jsonl"), "there is no file none.jsonl; check the path"),
        (("shp", "--path", "nectar.jsonl"), "1 of 1 rows cannot be used"),
        (("shp", "--set", "min_ration=3"), "has no setting 'min_ration'; did you mean 'min_ratio'?"),
        (("shp", "--set", "min_ratio=zero"), "--set min_ratio: source.min_ratio should be a valid number, not 'zero'"),
        (("shp", "--set", "min_ratio"), "write it as --set name=value"),
        (("shp", "--split", "train"), "--split train: write it as --split train=0.9"),
        (("shp", "--path", "shp.jsonl", "--split", "a=0.5"), "must add up to 1"),
        (("shp", "--near-duplicates", 3), "--near-duplicates: near_duplicates should be less than or equal to 1"),
        (("shp", "--path", "shp.jsonl", "--against", "none.txt"), "there is no file none.txt"),
        (("mix1", "--path", "a", "--path", "b"), "--path of mix1 is one folder"),
        (("mix1", "--path", "."), "holds no copy of hh"),
        (("gpt4-llm",), "comparison_data_v2.json"),
        (("shp", "--stage", "pairs"), "--stage is for recipes"),
        (("hh.yaml",), "there is no source and no recipe called 'hh.yaml'"),
        (("r.yaml", "--split", "a=1"), "--split is for sources, and r.yaml is a recipe"),
        (("r.yaml", "--split-seed", 0), "--split-seed is for sources, and r.yaml is a recipe"),
        (("r.yaml", "--stage", "c"), "has no data stage 'c'"),
        (("r.yaml",), "has the data stages a, b; choose with --stage"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(command, arguments, problem):
    two = "{stage: data, source: {source: shp, path: shp.jsonl}}"
    Path("r.yaml").write_text(f"name: r\nmodel: none\nstages:\n  a: {two}\n  b: {two}\n")
    code, out, err = command("build", *arguments, "--out", "made")
    assert (code, out) == (2, "")
    assert problem in err
    assert "Traceback" not in err
    assert not Path("made").exists()
    assert not list(Path().glob(".*partial"))


def test_help_names_every_source(command):
    _, out, _ = command("build", "--help")
    assert all(name in out for name in source_names() if name != "verifiable")


# --- stats ------------------------------------------------------------------------------------------------------------


def test_stats_of_a_source_and_of_what_was_built_are_the_same(command):
    code, out, err = command("stats", "--source", "shp", "--path", "shp.jsonl", "--tokenizer", "words", "--json")
    assert code == 0, err
    (row,) = json.loads(out)["sets"]
    assert (row["source"], row["prompts"], row["pairs"]) == ("shp", 40, 40)
    assert (row["prompt_tokens"], row["chosen_tokens"]) == (8, 2)
    assert row["written_by"] == {"a Reddit user": 80}
    command("build", "shp", "--path", "shp.jsonl", "--out", "made", "--split", "a=0.5", "--split", "b=0.5")
    assert json.loads(command("stats", "made", "--tokenizer", "words", "--json")[1])["sets"] == [row]


def test_stats_are_a_table_with_a_row_for_each_source(command):
    command("build", "nectar", "--path", "nectar.jsonl", "--out", "made")
    code, out, err = command(
        "stats", "made/train.jsonl", "--source", "shp", "--path", "shp.jsonl", "--tokenizer", "words"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line.strip().startswith(("nectar", "shp", "all"))] == [
        "nectar",
        "shp",
        "all",
    ]
    assert lines[-1] == "prompt, chosen, rejected: mean length in words between white space"


def test_lengths_are_counted_by_a_models_tokenizer(command, saved_policy, capsys, tiny_tokenizer):
    model = saved_policy("llama")
    capsys.readouterr()
    code, out, err = command("stats", "--source", "shp", "--path", "shp.jsonl", "--tokenizer", model, "--json")
    assert code == 0, err
    expected = len(tiny_tokenizer("Long answer.", add_special_tokens=False)["input_ids"])
    assert json.loads(out)["sets"][0]["chosen_tokens"] == expected


def test_files_of_others_are_counted_under_their_name(command):
    layouts.write(Path(), [{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}], "own.jsonl")
    rows = json.loads(command("stats", "own.jsonl", "--tokenizer", "words", "--json")[1])["sets"]
    assert rows[0]["source"] == "own.jsonl"
    assert rows[0]["labelled_by"] == {"not said": 1}


def test_what_cannot_be_used_is_said_and_names_are_shown_as_text(command):
    good = [
        {"prompt": f"Why {i}?", "chosen": "Because.", "rejected": "No.", "info": {"source": "a\x1b[31m"}}
        for i in range(30)
    ]
    layouts.write(Path(), [*good, {"prompt": "Why?", "chosen": "Because."}], "own.jsonl")
    for verb in (
        ("stats", "--tokenizer", "words"),
        ("show",),
        ("check", "--against", "shp.jsonl", "--field", "history"),
    ):
        code, out, err = command(verb[0], "own.jsonl", *verb[1:])
        assert code == 0, err
        assert "own.jsonl: dropped 1: `rejected` is missing" in err
        assert "\x1b" not in out
    assert "a\\x1b[31m" in command("stats", "own.jsonl", "--tokenizer", "words")[1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "name a file, a folder or --source to count"),
        (("none.jsonl",), "there is no file none.jsonl"),
        (("--source", "shpp"), "there is no source 'shpp'; did you mean 'shp'?"),
        (("shp.jsonl", "--path", "shp.jsonl"), "--path and --set are for one --source"),
        (("empty",), "empty holds no file of data"),
        (("nectar.jsonl", "--tokenizer", "nowhere/at/all"), "nowhere/at/all"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(command, arguments, problem):
    Path("empty").mkdir()
    code, out, err = command("stats", *arguments)
    assert (code, out) == (2, "")
    assert problem in err
    assert "Traceback" not in err


# --- show -------------------------------------------------------------------------------------------------------------


def test_records_are_shown_with_writers_scores_and_markup_as_text(command):
    row = layouts.shp(history="[bold]Why[/bold] \x1b[31mred\u202e?", text_a="Because [link=x]." + " So." * 600)
    layouts.write(Path(), [row], "shp.jsonl")
    command("build", "shp", "--path", "shp.jsonl", "--out", "made")
    code, out, err = command("show", "made/train.jsonl")
    assert code == 0, err
    assert "[bold]Why[/bold] \\x1b[31mred\\u202e?" in out
    assert "\x1b" not in out
    assert "1: comparison · shp · labelled by votes of Reddit users" in out
    assert "chosen, by a Reddit user, score 10" in out
    assert "more characters]" in out
    assert "more characters]" not in command("show", "made", "--whole")[1]


def test_show_prints_so_many_and_rankings_by_rank(command):
    command("build", "shp", "--path", "shp.jsonl", "--out", "made")
    assert command("show", "made", "--n", 2)[1].count("comparison") == 2
    assert len(json.loads(command("show", "made", "--n", 5, "--json")[1])) == 5
    command("build", "nectar", "--path", "nectar.jsonl", "--out", "ranked")
    out = command("show", "ranked")[1]
    assert [out.index(f"rank {place}, by model-") for place in (1, 2, 3)] == sorted(
        out.index(f"rank {place}, by model-") for place in (1, 2, 3)
    )
    code, _, err = command("show", "made", "--n", 0)
    assert (code, err) == (2, "error: --n is 0: show at least one record\n")


def test_show_reads_no_more_than_it_shows(command):
    row = json.dumps({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}) + "\n"
    Path("own.jsonl").write_text(row * 5000 + '{"prompt": "Wh')
    code, out, err = command("show", "own.jsonl", "--n", 2)
    assert code == 0, err
    assert out.count("comparison") == 2
    assert "ends in the middle of line 5001" in command("stats", "own.jsonl", "--tokenizer", "words")[2]


def test_control_characters_are_written_out():
    assert visible("a\tb\nc\r\nd") == "a\tb\nc\nd"
    assert visible("\x07\x9b\r\u200b\U000e0001") == "\\x07\\x9b\\x0d\\u200b\\U000e0001"


# --- check ------------------------------------------------------------------------------------------------------------


def test_overlaps_are_listed_and_dropped(command):
    write_records(
        "pairs.jsonl", [Comparison((user(text),), ("A", "B")) for text in ("Why?", LONG, " ".join(LONG.split()[:9]))]
    )
    Path("eval.txt").write_text(f"Something else?\n{LONG}\n")
    code, out, err = command("check", "pairs.jsonl", "--against", "eval.txt")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "1 of 3 records (33.33%) share 13 words in a row with one of 2 evaluation prompts"
    assert lines[1].startswith("  record 2: eval.txt:2: a farmer has seventeen sheep")
    assert lines[2].startswith("2 of 3 records (66.67%) share 8 words")
    code, out, err = command(
        "check", "pairs.jsonl", "--against", "eval.txt", "--words", 8, "--out", "clean.jsonl", "--json"
    )
    found = json.loads(out)
    assert (found["kept"], found["evaluation_prompts"]) == (1, 2)
    assert [overlap["record"] for overlap in found["overlaps"]["8"]] == [2, 3]
    assert [record.prompt[0]["content"] for record in read_records("clean.jsonl")] == ["Why?"]
    code, _, err = command("check", "pairs.jsonl", "--against", "eval.txt", "--out", "clean.jsonl")
    assert (code, err) == (2, "error: clean.jsonl is there already; give another --out\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--against", "none.txt"), "there is no file none.txt"),
        (("--against", "shp.jsonl", "--field", "q"), "has a prompt in the field 'q'"),
        (("--against", "nectar.jsonl", "--words", 0), "at least one word, not 0"),
        (("--against", "nectar.jsonl", "--out", "clean.docx"), "none of the suffixes"),
    ],
)
def test_a_check_that_cannot_be_made_is_one_sentence(command, arguments, problem):
    layouts.write(Path(), [{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}], "own.jsonl")
    code, out, err = command("check", "own.jsonl", *arguments)
    assert (code, out) == (2, "")
    assert problem in err
    assert "Traceback" not in err


def test_the_sets_are_listed(command):
    listed = json.loads(command("sets", "--json")[1])
    assert {"hh", "mix1", "oasst"} <= {entry["source"] for entry in listed} <= set(source_names())
    assert "stanfordnlp/SHP" in command("sets")[1]
