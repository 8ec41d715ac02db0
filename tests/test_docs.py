"""What README and docs tell a reader to type, works."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from sawyer.cli import app
from sawyer.data.attributes import Range, Scheme
from sawyer.data.files import raw_rows, read_records, write_records, write_rows
from sawyer.data.mixtures import MIXTURES
from sawyer.data.public.catalog import PUBLIC_SETS
from sawyer.data.verifiable import make_prompts
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.recipe import bundled_recipes, load_recipe
from tests.data import layouts

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "recipes" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
HOW_TO = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r"^(\w+=\S* )+")
TINY = {
    "stages.demonstrations.parts.train.n": 12,
    "stages.demonstrations.parts.validation.n": 4,
    "stages.prompts.parts.train.n": 8,
    "stages.prompts.parts.validation.n": 8,
    "stages.prompts.parts.test.n": 6,
    "stages.answers.sampling.max_tokens": 8,
    "stages.iterate.prompts": 6,
    "stages.iterate.n": 3,
    "stages.iterate.validation_prompts": 4,
    "stages.iterate.sampling.max_tokens": 8,
    "stages.evaluate.sampling.max_tokens": 8,
    **{f"stages.{stage}.max_tokens": 250 for stage in ("sft", "reward")},
    **{f"stages.{stage}.max_dropped": 0.9 for stage in ("sft", "reward")},
}
"""The quickstart for a model of 256 tokens' context, in seconds."""
PAIRS = [{"prompt": f"Why {i}?", "chosen": f"Because of {i}.", "rejected": "No idea."} for i in range(12)]
PUBLISHED = {
    "allenai/reward-bench": [{**pair, "subset": "alpacaeval-easy"} for pair in PAIRS],
    "openbmb/UltraFeedback": [layouts.ultrafeedback((5,) * 4, (2,) * 4, (1,) * 4)],
}
"""What stands on the hub, in short."""


def blocks(language: str, pages: list[Path] = PAGES) -> list[str]:
    return [body for page in pages for lang, body in BLOCK.findall(page.read_text()) if lang == language]


def commands(program: str, pages: list[Path] = PAGES) -> list[str]:
    """The lines that begin with a program (after variables that are set for it), in the order of the pages."""
    lines = [line.split("  #")[0].strip() for body in blocks("", pages) for line in body.splitlines()]
    return list(dict.fromkeys(line for line in lines if VARIABLE.sub("", line).startswith(f"{program} ")))


def words(line: str) -> list[str]:
    """What follows the program."""
    return shlex.split(VARIABLE.sub("", line))[1:]


def verb_of(line: str) -> list[str]:
    """`run` of `sawyer run quickstart`, `eval` and `reward` of `sawyer eval reward`."""
    own = words(line)
    return own[: 2 if hasattr(get_command(app).commands[own[0]], "commands") else 1]


def test_the_pages_hold_commands():
    assert len(commands("sawyer")) > 10
    assert any(line.startswith("SAWYER_MODEL_SOURCE") for line in commands("sawyer"))
    assert any(page.parent.name == "reference" for page in PAGES)


@pytest.mark.parametrize("line", [line for line in commands("sawyer") if words(line)[0] == "run"])
def test_recipes_and_settings_named_in_the_docs_exist(line):
    _, recipe, *options = words(line)
    overrides = [options[i + 1] for i, word in enumerate(options) if word == "--set"]
    load_recipe(recipe, overrides)


@pytest.mark.parametrize("line", commands("sawyer"))
def test_commands_of_the_docs_are_verbs_with_their_options(line):
    result = CliRunner().invoke(app, [*verb_of(line), "--help"])
    assert result.exit_code == 0
    offered = set(re.findall(r"(?<![\w-])--[\w-]+", result.output))
    assert {word.partition("=")[0] for word in words(line) if word.startswith("--")} <= offered


@pytest.mark.slow
def test_the_commands_of_the_readme_do_what_it_says(command, saved_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.txt").write_text("What is a river?\nWhat is a town?\n")
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    monkeypatch.setattr("datasets.load_dataset", lambda repo, **where: PUBLISHED[repo])
    tiny = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    tiny += ["--set", f"model={saved_policy('llama')}"]
    lines = commands("sawyer", [ROOT / "README.md"])
    verbs = ["recipes", "run", "run", "run", "show", "generate", "compare", "eval rewardbench", "eval reward"]
    verbs += ["score", "data build"]
    assert [" ".join(verb_of(line)) for line in lines] == verbs
    for line in lines:
        arguments = words(line)
        computes = arguments[0] == "run" and "--check" not in arguments
        if computes and "--out" not in arguments:
            continue  # the same recipe at another place: once is enough
        code, out, err = command(*arguments, *(tiny if computes else []))
        assert code == 0, (line, err)
        if arguments[0] in ("recipes", "show"):
            assert "quickstart" in out or "evaluate" in out
    summary = json.loads((tmp_path / "runs" / "b" / "summary.json").read_text())
    assert [stage["state"] for stage in summary["stages"].values()] == ["finished"] * 8
    assert (tmp_path / "runs" / "b" / "report.html").exists()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    compared = json.loads((tmp_path / "runs" / "compare" / "sft-iterate" / "comparison.json").read_text())
    assert compared["prompts"]["n"] > 0
    assert json.loads((tmp_path / "runs" / "rewardbench" / "reward-v1.json").read_text())["rows"] == 12
    assert all(len(row.value["scores"]) == 2 for row in raw_rows(tmp_path / "scored.jsonl"))
    assert len(read_records(tmp_path / "data" / "uf" / "train.jsonl")) == 3


LOCAL = [
    line
    for line in commands("sawyer", [HOW_TO / "generation.md", HOW_TO / "training.md"])
    if words(line)[0] == "generate"
]
LOCAL = [line for line in LOCAL if "--endpoint" not in line]


@pytest.mark.parametrize("line", LOCAL)
def test_generations_of_the_docs_run(line, command, saved_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.txt").write_text("What is a river?\n")
    for suffix in ("parquet", "jsonl"):
        write_records(tmp_path / f"test.{suffix}", make_prompts(2, "test"))
    policy = saved_policy("llama")
    model = load_sequence_classifier(policy, fresh_head=True, seed=1)
    reward = save_model(model, load_tokenizer(policy), tmp_path / "reward")
    arguments = words(line)
    arguments[arguments.index("--model") + 1] = policy
    arguments = [str(reward) if word == "runs/quickstart/reward" else word for word in arguments]
    if "--attributes" in arguments:
        Scheme({"gold": Range(0, 4, 2), "length": Range(0, 4, 2)}).save(policy)
    code, _, err = command(*arguments, "--max-tokens", "8")
    assert code == 0, err
    assert Path(arguments[arguments.index("--out") + 1]).exists()


def test_commands_on_data_of_the_docs_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    posts = [layouts.shp(post=f"p{i}") for i in range(60)]
    monkeypatch.setattr("datasets.load_dataset", lambda repo, **where: {"stanfordnlp/SHP": posts}[repo])
    write_rows("reward-bench.parquet", PUBLISHED["allenai/reward-bench"])
    scored = [{**layouts.gpt4_llm(7.0, 9.0, 2.0), "user_input": f"### Instruction:\nAdd {i}."} for i in range(40)]
    write_rows("comparison_data_v2.json", scored)
    lines = [line for line in commands("sawyer", [HOW_TO / "data.md"]) if words(line)[0] == "data"]
    assert [verb_of(line)[1] for line in lines] == ["build", "stats", "show", "check", "build", "build"]
    for line in lines:
        code, _, err = command(*words(line), *(["--tokenizer", "words"] if verb_of(line)[1] == "stats" else []))
        assert code == 0, (line, err)
    kept = {name: read_records(f"data/{name}/train.jsonl") for name in ("shp", "sawyer", "notebook")}
    assert 40 < len(kept["shp"]) < 60
    assert len(kept["sawyer"]) * 2 == len(kept["notebook"]) * 3


def test_agreement_of_the_docs_is_measured(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = [HOW_TO / "ai-feedback.md"]
    Path("labels.csv").write_text(blocks("csv", page)[0])
    Path("people.csv").write_text("id,score\n1,4\n2,5\n3,1\n")
    write_rows("judge.jsonl", [{"id": i, "score": 2 * i} for i in range(1, 4)])
    Path("scores.csv").write_text("id,human,judge,judge:swapped\n1,2,1,9\n2,8,5,5\n3,5,2,3\n")
    lines = [line for line in commands("sawyer", page) if verb_of(line) == ["eval", "agreement"]]
    assert len(lines) == 3
    for line in lines:
        code, _, err = command(*words(line))
        assert code == 0, (line, err)
    assert "<svg" in Path("agreement.html").read_text()
    assert json.loads(Path("agreement.json").read_text())["pairs"][0]["a"] == "people.score"


MODULES = sorted({words(line)[1].replace("TASK", "dpo") for line in commands("python")})


@pytest.mark.parametrize("module", MODULES)
def test_benchmarks_named_in_the_docs_have_the_options_they_are_given(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    offered = set(re.findall(r"--[\w-]+", done.stdout))
    for line in commands("python"):
        if words(line)[1].replace("TASK", "dpo") == module:
            assert {word for word in words(line) if word.startswith("--")} <= offered


@pytest.mark.parametrize("body", [body for body in blocks("yaml") if "stages:" in body])
def test_recipes_printed_in_the_docs_are_valid(body, tmp_path):
    file = tmp_path / "printed.yaml"
    file.write_text(body)
    assert load_recipe(file).name == yaml.safe_load(body)["name"]


@pytest.mark.parametrize("path", bundled_recipes(), ids=lambda path: path.stem)
def test_bundled_recipes_are_valid_and_named_as_their_file(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", bundled_recipes(), ids=lambda path: path.stem)
def test_a_bundled_recipe_written_out_is_the_same_recipe(path, tmp_path):
    recipe = load_recipe(path)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yaml").stages == recipe.stages


@pytest.mark.parametrize("path", bundled_recipes(), ids=lambda path: path.stem)
def test_every_bundled_recipe_has_its_command_on_the_page_of_recipes(path):
    run = [words(line)[1] for line in commands("sawyer", [ROOT / "recipes" / "README.md"])]
    assert path.stem in run


def test_make_targets_named_in_the_docs_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named
    assert named <= targets


def test_the_table_of_published_sets_has_them_all():
    page = (HOW_TO / "data.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, one in PUBLIC_SETS.items():
        assert one.settings.model_fields["hub"].default in rows[name]
    assert {"hh", *MIXTURES} <= rows.keys()
