"""`sawyer judge`: verdicts in both orders beside what people said, nothing lost to a kill, nothing paid twice."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import yaml
from sklearn.metrics import cohen_kappa_score

from sawyer.data.files import raw_rows, write_rows
from sawyer.feedback.judge_settings import judge_form
from sawyer.feedback.judge_template import load_template
from sawyer.pipeline.stages._feedback import JudgeSettings
from tests.rollout.chat_server import completion

ROOT = Path(__file__).parents[2]


def bar_rows(n=24):
    """Rows as LLMBar has them: the longer answer is better two times in three."""
    return [
        {
            "input": f"Say something about the number {i // 2}.",
            "output_1": f"{i} is a number." if i % 2 else f"{i} is a number that comes after {i - 1}.",
            "output_2": f"{i} is a number that comes after {i - 1}." if i % 2 else f"{i} is a number.",
            "label": str(2 if (i % 2 == 1) != (i % 3 == 0) else 1),
        }
        for i in range(n)
    ]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("bar.json").write_text(json.dumps(bar_rows()))


@pytest.fixture
def judged(command):
    """Runs `sawyer judge bar.json ... --out out.jsonl --json`; returns what it prints and the rows."""

    def call(*arguments, data="bar.json"):
        code, out, err = command("judge", data, "--out", "out.jsonl", "--json", *arguments)
        assert code == 0, err
        return json.loads(out), [row.value for row in raw_rows("out.jsonl")]

    return call


@pytest.fixture
def refused(command):
    def call(*arguments, data="bar.json", out="out.jsonl"):
        code, _, err = command("judge", data, "--out", out, *arguments)
        assert code == 2
        return next(line for line in err.splitlines() if line.startswith("error: "))

    return call


def shown(request):
    """The two answers in a question."""
    question = request["messages"][-1]["content"]
    cut = lambda letter: question.split(f"[begin of answer of assistant {letter}]\n")[1].split("\n[end of")[0]
    return cut("A"), cut("B")


def longer(request):
    a, b = shown(request)
    return completion(f"The longer one. [[{'A' if len(a) > len(b) else 'B'}]]")


def leftovers():
    return list(Path().glob(".*.work"))


def test_judges_without_a_model_on_labels_of_people(judged):
    result, rows = judged("--rater", "length", "--rater", "random", "--page", "page.html")
    assert [row["label"] for row in rows] == ["AB"[int(row["label"]) - 1] for row in bar_rows()]
    for row in rows:
        assert row["length"] == ("A" if len(row["a"]) > len(row["b"]) else "B")
        assert row["length:swapped"] == ("B" if row["length"] == "A" else "A")
    pairs = {(pair["a"], pair["b"]): pair["measures"] for pair in result["agreement"]["pairs"]}
    people, length = ([row[name] for row in rows] for name in ("label", "length"))
    assert pairs["label", "length"]["kappa"]["mean"] == pytest.approx(cohen_kappa_score(people, length))
    assert pairs["label", "length"]["exact"]["mean"] == pytest.approx(16 / 24)
    for name in ("length", "random"):
        assert result["agreement"]["biases"][name]["position"]["consistent"]["mean"] == 1
    assert result["agreement"]["prompts"] == 12
    assert "<svg" in Path("page.html").read_text()
    assert not leftovers()


def test_a_judge_that_looks_at_the_order_is_found_out(judged, serve):
    server = serve(lambda request: completion("[[A]]" if "number 3" not in str(request) else "both are fine"))
    arguments = ("--endpoint", server.url, "--model", "m", "--answers", "answers.jsonl", "--price-in", "1")
    result, rows = judged(*arguments)
    assert {row["m"] for row in rows} == {row["m:swapped"] for row in rows} == {"A", None}
    position = result["agreement"]["biases"]["m"]["position"]
    assert position["consistent"]["mean"] == 0
    assert position["first"]["mean"] == 1
    about = result["judges"]["m"]
    assert (about["asked"], about["answered"], about["unread"]) == (48, 48, 4)
    assert (about["template"], about["version"], about["form"]) == ("pairwise", 1, "pairwise")
    answers = [row.value for row in raw_rows("answers.jsonl")]
    assert [(row["id"], row["first"]) for row in answers[:2]] == [("1", "a"), ("1", "b")]
    assert answers[0]["answers"] == [{"text": "[[A]]", "value": 1.0, "error": None}]
    assert {(row["template"], row["version"]) for row in answers} == {("pairwise", 1)}


def test_a_killed_judge_asks_nothing_twice(judged, serve):
    """The server kills the judge in the middle of a question; what was answered before is not asked again."""
    answered, started = [], threading.Event()
    process = None

    def answer(request):
        started.wait(60)
        if len(answered) == 20:
            process.send_signal(signal.SIGKILL)
            return None
        answered.append(shown(request))
        return longer(request)

    server = serve(answer)
    words = ("--endpoint", server.url, "--model", "m", "--concurrency", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "sawyer", "judge", "bar.json", *words, "--out", "out.jsonl"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    started.set()
    process.wait(timeout=100)
    assert len(answered) == 20
    assert leftovers()
    assert not Path("out.jsonl").exists()

    def rest(request):
        answered.append(shown(request))
        return longer(request)

    server.answer = rest
    result, rows = judged(*words)
    assert len(answered) == len(set(answered)) == 48
    assert result["judges"]["m"]["unread"] == 0
    assert [row["m"] for row in rows] == ["A" if len(row["a"]) > len(row["b"]) else "B" for row in rows]
    assert [row["m:swapped"] for row in rows] == ["B" if row["m"] == "A" else "A" for row in rows]
    assert not leftovers()


def test_a_local_judge_that_says_nothing_is_counted_and_said(command, saved_policy):
    model = saved_policy("llama")
    options = ("--model", model, "--rater", "length", "--max-tokens", 3, "--limit", 4)
    mine = {"name": "mine", "version": 4, "form": "pointwise", "text": "{{conversation}}{{answer}}"}
    Path("mine.yaml").write_text(yaml.safe_dump(mine))
    asked = ("--form", "pointwise", "--template-file", "mine.yaml", "--samples", 2, "--temperature", 1)
    code, out, err = command("judge", "bar.json", "--out", "out.jsonl", *options, *asked)
    assert code == 0, err
    assert "llama-0: 16 of 16 questions without a verdict" in out
    assert "label ~ length" in out
    assert [row.value["llama-0"] for row in raw_rows("out.jsonl")] == [None] * 4
    assert not leftovers()


def test_a_panel_is_weighed_by_reliability(judged, serve):
    server = serve(longer)
    raters = ("--rater", "length", "--rater", "shorter", "--model", "m", "--endpoint", server.url)
    result, rows = judged(*raters, "--panel", "reliability", "--answers", "answers.jsonl")
    assert [row["panel"] for row in rows] == [row["length"] for row in rows], "two against one"
    about = result["judges"]["panel"]
    assert about["reliability"]["shorter"] < 0.1 < 0.9 < about["reliability"]["m"]
    assert about["uncertainty"] == pytest.approx(2**0.5 / 3)
    panel = [row.value for row in raw_rows("answers.jsonl") if row.value["rater"] == "panel"]
    assert len(panel) == 24
    assert panel[0]["id"] == "1"


def test_plain_rows_keep_their_columns(judged):
    rows = [
        {"id": f"i{i}", "prompt": [{"role": "user", "content": "Why?"}], "a": "x", "b": "yy", "ann": "B", "bob": "tie"}
        for i in range(3)
    ]
    write_rows("mine.jsonl", [*rows, {"id": "bad", "prompt": "Why?", "a": "x"}])
    result, judged_rows = judged("--rater", "length", "--max-dropped", 0.3, data="mine.jsonl")
    assert [row["id"] for row in judged_rows] == ["i0", "i1", "i2"]
    assert result["report"]["dropped"] == {"it has no column `b`": 1}
    assert set(result["agreement"]["raters"]) == {"ann", "bob", "length"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nobody is to judge: give --model, or --rater"),
        (("--rater", "taste"), "built-in raters are length, shorter, random"),
        (("--rater", "label"), "built-in raters are"),
        (("--rater", "length", "--rater", "length"), "two judges would be called 'length'"),
        (("--rater", "length", "--form", "scale"), "the options of a judge's question are for models"),
        (("--rater", "length", "--panel", "mean"), "at least two members, there is 1"),
        (("--rater", "length", "--rater", "random", "--panel", "mode"), "no rule 'mode'"),
        (("--rater", "length", "--rater", "random", "--panel", "reliability", "--limit", 5), "on 5 pairs"),
        (("--rater", "length", "--cache", "x"), "give --endpoint too"),
        (("--rater", "length", "--endpoint", "http://localhost:1/v1"), "say which with --model"),
        (("--rater", "length", "--chat-template", "plain"), "--chat-template is for local models"),
        (("--rater", "length", "--limit", 0), "--limit is 0"),
        (("--model", "m", "--precision", "fp8"), "choose fp32 or bf16"),
        (("--model", "m", "--template-file", "none.yaml"), "no such file"),
        (("--model", "m", "--template", "scale"), "is for scale, not for pairwise"),
        (("--model", "m", "--samples", 3), "all of them would be the same answer"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked(refused, arguments, said):
    assert said in refused(*arguments)
    assert not Path("out.jsonl").exists()


def test_files_that_will_not_do(refused):
    write_rows("twice.jsonl", [{"id": "x", "prompt": "p", "a": "1", "b": "2"}] * 2)
    assert "has the id 'x' twice" in refused("--rater", "length", data="twice.jsonl")
    write_rows("taken.jsonl", [{"prompt": "p", "a": "1", "b": "2", "length": "A"}])
    assert "has a column 'length' already" in refused("--rater", "length", data="taken.jsonl")
    write_rows("bad.jsonl", [{"prompt": "p", "a": "1"}, {"prompt": "p", "a": "1", "b": "2"}])
    assert "1 of 2 rows are no pairs" in refused("--rater", "length", data="bad.jsonl")
    write_rows("none.jsonl", [{"prompt": "p", "a": "1", "b": " "}])
    assert "none.jsonl:1: its `b` is no text" in refused("--rater", "length", data="none.jsonl")
    assert "must end with .jsonl, .json or .parquet" in refused("--rater", "length", out="out.csv")


def test_a_judge_that_is_never_read_stops_with_examples(refused, serve):
    server = serve(lambda request: completion("I like\nboth."))
    said = refused("--endpoint", server.url, "--model", "m", "--unread-limit", 0.5)
    assert "no readable answer to 20 of 20 questions" in said
    assert said.count(r"'I like\nboth.'") == 3
    assert len(server.requests) == 20


def test_a_template_of_ones_own_needs_its_placeholders(refused):
    text = load_template("pairwise").text.replace("{{answer_b}}", "{{answer_c}}")
    Path("mine.yaml").write_text(yaml.safe_dump({"name": "x", "version": 1, "form": "pairwise", "text": text}))
    assert "lacks the placeholder {{answer_b}}" in refused("--model", "m", "--template-file", "mine.yaml")


def test_rewardbench_and_scoring_take_a_judge_of_any_form(command, serve):
    server = serve(longer)
    rows = [
        {"id": i, "prompt": f"p{i}", "chosen": "the longer answer", "rejected": "short", "subset": "mine"}
        for i in range(4)
    ]
    write_rows("bench.jsonl", rows)
    judge = ("--endpoint", server.url, "--model", "m", "--json")
    bench = partial(command, "eval", "rewardbench", "--data", "bench.jsonl", *judge)
    code, out, err = bench("--out", "a.json", "--judge-form", "pairwise", "--both-orders")
    assert code == 0, err
    result = json.loads(out)
    assert result["subsets"]["mine"]["accuracy"] == 1
    assert result["protocol"]["judge"]["template"] == "pairwise"
    assert len(server.requests) == 8
    server.answer = lambda request: completion("[[9]]" if "the longer" in str(request) else "[[2]]")
    code, out, err = command(
        "score", "--data", "bench.jsonl", "--out", "scored.jsonl", *judge, "--judge-form", "pointwise"
    )
    assert code == 0, err
    assert [row.value["scores"] for row in raw_rows("scored.jsonl")] == [[9.0, 2.0]] * 4
    for words, said in (
        (("--judge-samples", 2), "--judge-samples is for --judge-form"),
        (("--judge-form", "scale", "--judge-template", "pairwise"), "is for pairwise, not for scale"),
        (("--model", "n", "--ensemble", "reliability"), "is measured on at least 20 pairs, and there are 4"),
    ):
        code, _, err = bench("--out", "b.json", *words)
        assert code == 2
        assert said in err
    code, _, err = command(
        "score", "--data", "bench.jsonl", "--out", "c.jsonl", *judge, "--model", "n", "--ensemble", "reliability"
    )
    assert (code, "here are scores" in err) == (2, True)


def test_the_commands_of_the_docs_run(command, serve, saved_policy):
    """Those of `sawyer judge`, with the templates that stand beside them."""
    server = serve(longer)
    model = Path(saved_policy("llama"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    write_rows("pairs.jsonl", [{"prompt": "Why?", "a": "So.", "b": "Because.", "ann": "B"}] * 2)
    page = (ROOT / "docs" / "how-to" / "ai-feedback.md").read_text()
    lines = [line.split()[1:] for line in page.splitlines() if line.startswith("sawyer judge ")]
    assert len(lines) == 3
    named = {"http://localhost:8000/v1": server.url, "smollm2": str(model)}
    for words in lines:
        code, out, err = command(*(named.get(word, word) for word in words))
        assert code == 0, err
        assert "2 pairs judged" in out
    shown = page.split("### Let judges compare answers")[1].split("\n## ")[0].split("```yaml\n")
    template, rubric, recipe = (text.split("```")[0] for text in shown[1:])
    Path("brief.yaml").write_text(template)
    Path("criteria.yaml").write_text(rubric)
    assert judge_form(template_file="brief.yaml").question().name == "brief"
    assert len(judge_form(form="rubric", rubric_file="criteria.yaml").criteria().criteria) == 2
    assert JudgeSettings(**yaml.safe_load(recipe)["judge"]).samples == 3
