"""`sawyer eval agreement`: figures of raters from plain files."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sawyer.data.files import write_rows
from sawyer.evals import agreement, monotone


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    write_rows("labels.jsonl", rows())


def rows(n=40, seed=0):
    """Two people and a judge who is milder; two items a prompt."""
    rng = np.random.default_rng(seed)
    quality = rng.integers(1, 6, n)
    ann, bob = (np.clip(quality + rng.integers(-1, 2, n), 1, 5) for _ in range(2))
    judge = np.clip(quality + 4, 1, 10)
    return [
        {"id": f"i{i}", "prompt": f"p{i // 2}", "ann": int(ann[i]), "bob": int(bob[i]), "judge": int(judge[i])}
        for i in range(n)
    ]


def verdicts(n=40):
    """A judge of two who always takes the first, and who wrote some of them."""
    return [
        {
            "id": i,
            "prompt": f"p{i}",
            "a": "Short.",
            "b": "A much longer answer.",
            "a_model": "judge" if i % 2 else "other",
            "b_model": "other" if i % 2 else "judge",
            "human": "AB"[i % 3 == 0] if i % 5 else "tie",
            "judge": "A",
            "judge:swapped": "A",
        }
        for i in range(n)
    ]


@pytest.fixture
def command(command):
    return partial(command, "eval", "agreement")


@pytest.fixture
def figures(command):
    def call(*arguments):
        code, out, err = command(*arguments, "--draws", 100, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def column(name):
    return np.array([row[name] for row in rows()], dtype=float)


def test_every_two_raters_are_compared(figures):
    found = figures("labels.jsonl")
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("ann", "bob"), ("ann", "judge"), ("bob", "judge")]
    measures = found["pairs"][1]["measures"]
    assert measures.keys() == {*agreement.NOMINAL, *agreement.NUMERIC}
    assert measures["kendall"]["mean"] == pytest.approx(
        scipy_stats.kendalltau(column("ann"), column("judge")).statistic
    )
    assert all(figure["n"] == 20 for figure in measures.values()), "the prompts are the units"
    assert (found["items"], found["prompts"], found["clusters"]) == (40, 20, "prompt")
    assert set(agreement.ALPHAS) <= found["alpha"].keys()
    assert found["biases"] == {}
    assert found["notes"] == []


def test_calibration_goes_both_ways_and_takes_out_the_scale(figures):
    pair = figures("labels.jsonl")["pairs"][1]
    assert list(pair["calibrated"]) == list(pair["curves"]) == ["ann -> judge", "judge -> ann"]
    calibrated = pair["calibrated"]["judge -> ann"]
    assert calibrated["mae"]["mean"] < 1 < 3 < pair["measures"]["mae"]["mean"]
    prompts = [row["prompt"] for row in rows()]
    values, _ = monotone.cross_fitted(column("judge"), column("ann"), prompts)
    assert calibrated["mae"]["mean"] == pytest.approx(np.abs(values - column("ann")).mean())


def test_options_reach_the_figures(figures):
    def widths(*options):
        figure = figures("labels.jsonl", *options)["pairs"][0]["measures"]["mae"]
        return figure["high"] - figure["low"]

    assert widths("--level", 0.5) < widths()
    assert figures("labels.jsonl", "--seed", 1) != figures("labels.jsonl") == figures("labels.jsonl")
    two, five = (figures("labels.jsonl", "--folds", n)["pairs"][1]["calibrated"] for n in (2, 5))
    assert two != five
    assert list(figures("labels.jsonl", "--rater", "ann", "--rater", "judge")["raters"]) == ["ann", "judge"]


def test_biases_of_a_judge_of_two(figures):
    write_rows("pairs.jsonl", verdicts())
    found = figures("pairs.jsonl")
    judge, human = found["biases"]["judge"], found["biases"]["human"]
    assert judge["position"]["first"]["mean"] == judge["first_preferred"]["mean"] == 1
    assert judge["position"]["consistent"]["mean"] == 0
    assert judge["position"]["first"]["p_holm"] >= judge["position"]["first"]["p_value"]
    assert (judge["tie_rate"]["mean"], human["tie_rate"]["mean"]) == (0, 0.2)
    assert human["position"] is None
    assert judge["longer"]["preferred"]["mean"] == 0, "a is always the shorter"
    assert judge["longer"]["against"]["human"]["more"]["mean"] < 0
    assert judge["own"]["preferred"]["mean"] == 0.5
    assert human["own"] is None, "people have written none of it"
    assert figures("pairs.jsonl", "--model-of", "human=other")["biases"]["human"]["own"] is not None


def test_numbers_are_verdicts_where_a_tie_is_named(figures, command):
    table = "id,a_length,b_length,judge,judge:swapped\n1,10,20,1,9\n2,30,20,9,2\n3,x,20,5,5\n"
    Path("scale.csv").write_text(table)
    found = figures("scale.csv", "--tie", 5)
    judge = found["biases"]["judge"]
    assert judge["position"]["verdicts"] == {"a": 1, "b": 1, "first": 0, "second": 0, "tie": 1, "once": 0}
    assert judge["longer"]["preferred"]["mean"] == 0
    assert judge["longer"]["preferred"]["n"] == 2
    assert (
        figures("scale.csv", "--tie", 5, "--prefers-a", "high")["biases"]["judge"]["longer"]["preferred"]["mean"] == 1
    )
    assert "there is one rater only, judge, so there is no agreement to measure" in found["notes"]
    assert "1 of 3 items have no length of a or b, and do not count for verbosity bias" in found["notes"]
    code, _, err = command("scale.csv")
    assert code == 2
    assert "one rater only, judge" in err
    assert "say with --tie which number is a tie" in err


def test_results_are_written_and_shown(command):
    write_rows("pairs.jsonl", verdicts())
    options = ("--out", "r.json", "--page", "r.html", "--draws", 100)
    code, out, err = command("labels.jsonl", *options)
    assert code == 0, err
    assert "3 raters of 40 items, 20 prompts" in out
    for title in ("ann ~ judge", "Kendall tau-b", "calibrated judge -> ann", "Krippendorff's alpha", "interval"):
        assert title in out
    assert json.loads(Path("r.json").read_text())["items"] == 40
    page = Path("r.html").read_text()
    assert page.count("<svg") == 1 + 6, "a heat map and a curve for each direction"
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    code, _, err = command("labels.jsonl", *options)
    assert code == 2
    assert err == "error: r.json is there already; give another --out, or --overwrite to replace it\n"
    code, out, err = command("pairs.jsonl", *options, "--overwrite")
    assert code == 0, err
    assert "same verdict when swapped" in out
    assert "more often than human" in out
    assert Path("r.html").read_text().count("<svg") == 1, "texts have no curve"


def test_a_page_holds_names_as_text(command):
    write_rows("odd.jsonl", [{"id": i, "<b>ann</b>": i % 3, "$b$": i % 2} for i in range(12)])
    code, _, err = command("odd.jsonl", "--page", "r.html", "--draws", 100)
    assert code == 0, err
    page = Path("r.html").read_text()
    assert "<b>ann" not in page
    assert "&lt;b&gt;ann" in page


def test_what_is_wrong_with_labels_is_said_and_does_not_stop_the_rest(figures):
    odd = rows()
    for i, row in enumerate(odd):
        row |= {"words": "good" if i % 2 else "bad", "nobody": None, "same": 3}
        if i < 5:
            row["bob"] = None
        if i == 7:
            row["judge"] = "n/a"
    odd.append(odd[0])
    write_rows("odd.jsonl", odd)
    found = figures("odd.jsonl")
    assert list(found["raters"]) == ["ann", "bob", "judge", "words", "same"]
    notes = "\n".join(found["notes"])
    for note in (
        "odd.jsonl: 1 id on several rows, of which the first is taken (i0)",
        "rater bob: 5 of 40 labels are missing",
        "rater judge: 1 of 40 labels are not numbers (such as 'n/a'), so only measures that need none are taken",
        "rater nobody has no label at all and is left out",
        "rater same always says 3, so correlations are not defined",
        "raters ann and words never use the same label",
    ):
        assert note in notes
    of = {(pair["a"], pair["b"]): pair for pair in found["pairs"]}
    assert of["ann", "bob"]["items"] == 35
    assert of["ann", "judge"]["measures"].keys() == set(agreement.NOMINAL)
    assert of["ann", "same"]["measures"]["pearson"] == {"mean": None, "low": None, "high": None, "n": 20}
    assert found["alpha"]["numeric_raters"] == ["ann", "bob", "same"]
    assert found["raters"]["words"]["counts"] == {"bad": 20, "good": 20}


def test_files_of_different_length_are_joined_and_the_difference_is_said(figures):
    own = rows()
    write_rows("people.jsonl", [{key: row[key] for key in ("id", "prompt", "ann")} for row in own])
    others = [{"id": row["id"], "judge": row["judge"]} for row in own[:30]]
    write_rows("judge.jsonl", [*others, {"id": "new", "judge": 3}])
    found = figures("people.jsonl", "judge.jsonl")
    assert found["pairs"][0]["items"] == 30
    assert "judge.jsonl: 1 id unknown to people.jsonl (new)" in found["notes"]
    assert "judge.jsonl: 10 ids of people.jsonl missing (i30, i31, i32, ...)" in found["notes"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"l.csv": "id,ann\n1,2\n"}, (), "there is one rater only, ann; give a column for each of at least two"),
        ({"l.csv": "id,ann,bob\n1,2,\n2,,1\n"}, (), "no two raters have labelled the same item"),
        ({"l.csv": "id,ann\n1,2\n", "m.csv": "id,bob\n9,2\n"}, (), "m.csv: 1 id unknown to l.csv (9)"),
        ({"l.csv": "id,ann,bob\n1,2,\n"}, ("--rater", "eve"), "--rater eve: no file has that column"),
        ({"l.csv": "id,ann,bob\n1,2,2\n"}, ("--model-of", "eve=m"), "--model-of eve=m is not RATER=MODEL"),
        ({"l.csv": "id,ann,bob\n1,2,2\n"}, ("--prefers-a", "high"), "say with --tie which of them is a tie"),
        ({"l.csv": "id,ann,bob\n1,2,2\n"}, ("--prefers-a", "left", "--tie", 2), "low or high, not 'left'"),
        ({"l.csv": "id,ann,bob\n1,2,2\n"}, ("--out", "x.txt"), "must end with .json"),
        ({"l.txt": "id,ann,bob\n1,2,2\n"}, (), "l.txt is not a file of labels; known kinds are .csv, .jsonl"),
    ],
)
def test_a_mistake_is_one_sentence(files, options, message, command):
    for name, text in files.items():
        Path(name).write_text(text)
    code, out, err = command(*files, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.splitlines()[-1].startswith("error: ")


def test_one_prompt_is_not_calibrated_and_has_no_interval(figures):
    Path("l.csv").write_text("id,prompt,ann,bob\n1,p,2,2\n2,p,3,4\n")
    found = figures("l.csv")
    assert found["pairs"][0]["calibrated"] == {}
    assert found["pairs"][0]["measures"]["mae"]["low"] is None
    assert "raters ann and bob share one prompt only, so nothing is calibrated" in found["notes"]
