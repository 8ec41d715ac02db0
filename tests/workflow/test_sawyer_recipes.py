"""The recipes of SAWYER's pipeline: the paper's numbers, the notebooks', and ours."""

import json
from pathlib import Path

import pytest

from sawyer.data.files import read_records
from sawyer.pipeline.recipe import load_recipe
from tests.data import layouts

PRESETS = ["sawyer-paper", "sawyer-notebook", "sawyer-fixed"]
DOLLY = (
    "{stage: data, source: {source: dolly, path: dolly.jsonl}, max_prompt_tokens: 511, tokens_of: base, "
    "chat_template: sawyer, split: {train: 0.5, validation: 0.25, test: 0.25}}"
)
SCORED = "{stage: data, source: {source: gpt4-llm, path: scored.json}, split: {train: 0.6, validation: 0.4}}"
REAL = {
    "stages.demonstrations": DOLLY,
    "stages.prompts": DOLLY,
    "stages.labels": SCORED,
    "stages.ppo.gold": "null",
    "stages.evaluate.gold": "null",
    "stages.answers.limit": "1",
}
"""The authors' own data, as recipes/README.md says it."""


def overrides(**settings):
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def real_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.write(tmp_path, [layouts.dolly(f"Name river {i}.") for i in range(24)], "dolly.jsonl")
    rows = [layouts.gpt4_llm(1 + i % 3, 9 - i % 2, 5) for i in range(12)]
    for i, row in enumerate(rows):
        row["user_input"] = row["user_input"].replace("Add.", f"Add {i}.")
    Path("scored.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_checks_without_the_hub_and_on_the_authors_data(name, saved_policy, command, real_data):
    model = overrides(model=saved_policy("llama"))
    code, _, err = command("run", name, *model, "--check")
    assert code == 0, err
    code, _, err = command("run", name, *model, *overrides(**REAL), "--check")
    assert code == 0, err


def test_the_presets_differ_in_numbers_and_not_in_what_they_do():
    stages = {}
    for name in PRESETS:
        recipe = load_recipe(name)
        assert recipe.models["base"] == "gpt2"
        stages[name] = [(planned.name, planned.stage.kind) for planned in recipe.stages]
    assert stages["sawyer-paper"] == stages["sawyer-notebook"] == stages["sawyer-fixed"]


def test_the_numbers_are_those_of_paper_and_notebooks():
    def ppo(name):
        return next(planned.settings for planned in load_recipe(name).stages if planned.name == "ppo")

    paper, notebook, fixed = (ppo(name) for name in PRESETS)
    assert (paper.kl.coefficient, paper.kl.schedule) == (0.02, "fixed")
    assert (notebook.kl.coefficient, notebook.kl.schedule, notebook.kl.target) == (0.2, "adaptive", 6)
    assert notebook.kl.rate == notebook.batch_size * notebook.n / 10_000
    assert notebook.steps == 2 * 3639
    assert (notebook.mini_batches, notebook.n, notebook.whiten) == (notebook.batch_size, 1, "mini_batch")
    assert (paper.batch_size, paper.n, paper.mini_batches, paper.epochs) == (4, 1, 1, 1)
    assert (paper.sampling.top_p, notebook.sampling.top_p) == (0.95, 1)
    for theirs in (paper, notebook):
        assert theirs.learning_rate == theirs.value.learning_rate == 1.4e-6
        assert theirs.sampling.top_k == 50
        assert (theirs.collapse.action, theirs.keep) == ("warn", "last")
        assert (theirs.gamma, theirs.gae_lambda, theirs.clip, theirs.value.coefficient) == (1, 0.95, 0.2, 0.1)
    assert fixed.sampling.top_k == 0
    assert fixed.kl.ceiling is not None
    assert fixed.batch_size * fixed.n >= 64
    assert (fixed.collapse.action, fixed.keep, fixed.whitened) == ("rollback", "best", True)


SMALL = {
    "precision": "fp32",
    "stages.sft.batch_size": 4,
    "stages.sft.max_tokens": 250,
    "stages.sft.max_dropped": 0.9,
    "stages.answers.sampling": "{max_tokens: 8}",
    "stages.reward.batch_size": 4,
    "stages.reward.max_tokens": 250,
    "stages.reward.max_dropped": 0.9,
    "stages.ppo.steps": 2,
    "stages.ppo.batch_size": 2,
    "stages.ppo.mini_batches": 2,
    "stages.ppo.validation_prompts": 2,
    "stages.ppo.sampling.max_tokens": 8,
    "stages.ppo.learning_rate": 0.001,
    "stages.evaluate.sampling.max_tokens": 8,
    "stages.evaluate.limit": 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_on_the_authors_data(name, saved_policy, command, real_data, tmp_path):
    small = {**SMALL, **({"stages.ppo.value.warmup": 1} if name == "sawyer-fixed" else {})}
    options = overrides(model=saved_policy("llama"), **{**REAL, **small})
    code, _, err = command("run", name, *options, "--out", "out")
    assert code == 0, err
    prompts = list(read_records(tmp_path / "out" / "prompts" / "train.jsonl"))
    assert prompts
    evaluation = json.loads((tmp_path / "out" / "evaluate" / "evaluation.json").read_text())
    assert evaluation["order"] == ["base", "sft", "ppo"]


def test_what_the_readme_types_is_what_was_tried():
    """Its names of files and shares are the real ones."""
    shown = (Path(__file__).parents[2] / "recipes" / "README.md").read_text()
    real = {
        "dolly.jsonl": "databricks-dolly-15k.jsonl",
        "scored.json": "comparison_data_v2.json",
        "{train: 0.5, validation: 0.25, test: 0.25}": "{train: 0.97, validation: 0.02, test: 0.01}",
        "{train: 0.6, validation: 0.4}": "{train: 0.9, validation: 0.1}",
    }
    for name, value in (("DOLLY", DOLLY), ("SCORED", SCORED)):
        for tried, published in real.items():
            value = value.replace(tried, published)
        assert f'{name}="{value}"' in shown
    named = {DOLLY: '"$DOLLY"', SCORED: '"$SCORED"'}
    for setting, value in REAL.items():
        assert f"--set {setting}={named.get(value, value)}" in shown
