"""The real `data` stage, as a recipe calls it: who gets which prompts, and what is refused before and while it runs."""

import json
from pathlib import Path

import pytest

from sawyer.data.records import user
from sawyer.errors import SawyerError
from sawyer.pipeline import stage as stage_module
from sawyer.pipeline.plan import plan
from sawyer.pipeline.recipe import load_recipe
from sawyer.pipeline.run import run_recipe
from sawyer.pipeline.stages import data, evaluate, generate, iterate, label, reward, sft
from sawyer.pipeline.stages._common import chat_of

SOURCE = "{source: file, path: pairs.jsonl}"
HEAD = "name: x\nmodel: tiny\nseed: 0\nstages:\n"
BOTH = f"""{HEAD}
  talks: {{stage: data, source: {SOURCE}, split: {{train: 0.7, test: 0.3}}, view: conversations}}
  pairs: {{stage: data, source: {SOURCE}, split: {{train: 0.7, test: 0.3}}}}
"""


@pytest.fixture(autouse=True)
def real_stages(tmp_path):
    rows = [{"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    modules = (data, evaluate, generate, iterate, label, reward, sft)
    with stage_module.register(*(module.STAGE for module in modules)):
        yield


def recipe(text, *overrides):
    Path("x.yaml").write_text(text)
    return load_recipe("x.yaml", overrides)


def run(text, out, *overrides):
    return run_recipe(recipe(text, *overrides), out, report=lambda folder: None)


def questions(folder, part):
    rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
    return {(row.get("messages") or row["prompt"])[0]["content"] for row in rows}


def test_no_stage_trains_on_what_another_tests_whatever_their_names_and_the_seed():
    runs = [run(BOTH, "a", "seed=0"), run(BOTH, "b", "seed=1")]
    stages = [folder / name for folder in runs for name in ("talks", "pairs")]
    tested = [questions(stage, "test") for stage in stages]
    assert 5 < len(tested[0]) < 40
    assert all(part == tested[0] for part in tested)
    for stage in stages:
        assert not questions(stage, "train") & tested[0]


def test_another_split_seed_deals_other_parts():
    folder = run(BOTH, "a", "stages.pairs.split_seed=1")
    assert questions(folder / "pairs", "test") != questions(folder / "talks", "test")


def test_the_files_that_were_read_are_in_the_manifest():
    folder = run(BOTH, "a")
    told = json.loads((folder / "pairs/manifest.json").read_text())["inputs"]
    assert told["settings.source.path"]["file"] == "pairs.jsonl"
    assert len(told["settings.source.path"]["sha256"]) == 64


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = run(BOTH.replace("path: pairs", "path: ~/pairs"), "a")
    assert (folder / "pairs/train.jsonl").exists()
    listed = recipe(HEAD + "  pairs: {stage: data, source: {source: hh, path: ['~/a.jsonl', b.jsonl]}}\n")
    assert listed.stages[0].settings.source.path == [f"{tmp_path}/a.jsonl", "b.jsonl"]


def test_a_folder_of_data_is_refused_before_the_run(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "pairs.jsonl").rename(tmp_path / "folder/pairs.jsonl")
    with pytest.raises(SawyerError, match=r"x\.yaml:6: folder is a folder; give the file, or a list of the files"):
        plan(recipe(BOTH.replace("path: pairs.jsonl", "path: folder")))


def test_a_part_that_stays_empty_is_named():
    with pytest.raises(SawyerError) as caught:
        run(BOTH, "a", "stages.pairs.split={train: 0.999999, dev: 0.000001}")
    assert str(caught.value) == (
        "stage 'pairs': none of the 60 records falls into the part 'dev' (1e-06 of the prompts); "
        "give it a larger share, take more records, or leave it out"
    )
    assert not Path("a/pairs").exists()


def test_a_view_that_leaves_nothing_of_a_part_names_it(tmp_path):
    bad = {"prompt": "Why?", "completion": "No.", "label": False}
    (tmp_path / "bad.jsonl").write_text(json.dumps(bad) + "\n")
    text = f"{HEAD}  talks:\n    stage: data\n    view: conversations\n    parts: {{a: {SOURCE}, b: {SOURCE}}}\n"
    with pytest.raises(SawyerError, match=r"stage 'talks': part 'b': these records hold no answer to imitate"):
        run(text, "a", "stages.talks.parts.b.path=bad.jsonl")


def test_tied_comparisons_are_counted_and_left_out(tmp_path, capsys):
    rows = [{"prompt": f"Why {i}?", "completions": ["a", "b"], "scores": [i % 2, 0]} for i in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"{HEAD}  pairs: {{stage: data, source: {{source: file, path: pairs.jsonl, max_bad: 0.5}}}}\n"
    folder = run(text, "a")
    figures = json.loads((folder / "pairs/manifest.json").read_text())["figures"]
    reason = "two completions have the same score, so neither is preferred"
    assert figures == {"train": 5, "dropped": {reason: 5}}
    assert f"dropped 5: {reason}" in capsys.readouterr().err
    with pytest.raises(SawyerError, match=r"5 of 10 rows cannot be used, .*; the first is row 1: two completions"):
        run(text, "b", "stages.pairs.source.max_bad=0.1")


WITH_SOURCE = HEAD + "  pairs:\n    stage: data\n    source:\n"
LONG = "{stage: data, source: %s, max_prompt_tokens: %d, tokens_of: base, chat_template: plain}"


def test_long_prompts_are_dropped_before_the_limit_cuts(saved_policy, capsys):
    model = saved_policy("llama")
    asked = [f"Why {i}?" + " and then" * (i % 3) for i in range(60)]
    rows = [{"prompt": text, "chosen": "A.", "rejected": "B."} for text in asked]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = chat_of(model, "plain")
    tokens = [len(chat.prompt_ids([user(text)])) for text in asked]
    most = sorted(tokens)[len(tokens) // 2]
    fitting = {text for text, n in zip(asked, tokens, strict=True) if n <= most}
    assert 0 < len(fitting) < 60
    text = HEAD.replace("tiny", model) + f"  pairs: {LONG % (SOURCE, most)}\n"
    folder = run(text, "a")
    assert questions(folder / "pairs", "train") == fitting
    assert f"dropped {60 - len(fitting)}: the prompt has more than {most} tokens" in capsys.readouterr().err
    folder = run(text, "b", f"stages.pairs.source.limit={len(fitting)}")
    assert questions(folder / "pairs", "train") == fitting
    each = text.replace(f"source: {SOURCE}", f"parts: {{train: {SOURCE}, test: {SOURCE}}}")
    assert questions(run(each, "c") / "pairs", "test") == fitting


SAID = {
    "a setting of another source": (
        WITH_SOURCE + "      source: hh\n      format: auto\n",
        "x.yaml:9: stages.pairs.source has no setting 'format'; its settings are limit, shuffle_seed",
    ),
    "the setting of another source that is nearer": (
        WITH_SOURCE + "      source: hh\n      subset: helpful-base\n",
        "x.yaml:9: stages.pairs.source has no setting 'subset'; did you mean 'subsets'?",
    ),
    "a setting of a part's source": (
        HEAD + "  pairs:\n    stage: data\n    parts:\n      file: {source: hub, repo: a/b, subsets: [c]}\n",
        "x.yaml:8: stages.pairs.parts.file has no setting 'subsets'; did you mean 'subset'?",
    ),
    "a setting of a set in a mixture": (
        WITH_SOURCE + "      source: mixture\n      parts:\n      - data: {source: shp, min_ration: 3}\n",
        "x.yaml:10: stages.pairs.source.parts.0.data has no setting 'min_ration'; did you mean 'min_ratio'?",
    ),
    "a mistyped choice of a source": (
        WITH_SOURCE + "      source: hub\n      repo: a/b\n      format: mesages\n",
        "x.yaml:10: stages.pairs.source.format should be 'auto', 'alpaca', 'sharegpt', 'messages', 'trl' or 'hh', "
        "not 'mesages'; did you mean 'messages'?",
    ),
    "a mistyped source": (
        WITH_SOURCE + "      source: verifable\n      n: 3\n",
        "x.yaml:8: stages.pairs.source.source should be 'hh', 'file', 'hub', 'verifiable', 'mixture', 'shp', "
        "'helpsteer', 'pku', 'ultrafeedback', 'ultrainteract', 'code-ultrafeedback', 'argilla-math', 'orca', "
        "'capybara', 'summarize', 'nectar', 'webgpt', 'oasst', 'gpt4-llm', 'alpaca-farm' or 'dolly', not 'verifable'; "
        "did you mean 'verifiable'?",
    ),
    "no source named": (
        WITH_SOURCE + "      path: a.jsonl\n",
        "x.yaml:7: stages.pairs.source needs the setting 'source'; add it",
    ),
    "a source that is no mapping": (
        HEAD + "  pairs:\n    stage: data\n    source: hh\n",
        "x.yaml:7: stages.pairs.source should be a mapping of settings, not 'hh'",
    ),
    "shares that do not add up": (
        WITH_SOURCE + "      source: hh\n    split: {train: 0.9, test: 0.2}\n",
        "x.yaml:5: stages.pairs: the fractions of a split must add up to 1, {'train': 0.9, 'test': 0.2} give 1.1",
    ),
    "a part that leaves the folder": (
        WITH_SOURCE + "      source: hh\n    split: {../x: 1.0}\n",
        "x.yaml:5: stages.pairs: the name of the part '../x' may only have letters, digits, - and _",
    ),
    "a length without a tokenizer": (
        WITH_SOURCE + "      source: hh\n    max_prompt_tokens: 9\n",
        "x.yaml:5: stages.pairs: `max_prompt_tokens` and `tokens_of`, the model whose tokens count, go together",
    ),
    "a template that counts nothing": (
        WITH_SOURCE + "      source: hh\n    chat_template: plain\n",
        "x.yaml:5: stages.pairs: `chat_template` is for `max_prompt_tokens`; give that too, or leave it out",
    ),
    "a part named as a figure": (
        HEAD + "  pairs: {stage: data, parts: {sources: {source: hh}}}\n",
        "x.yaml:5: stages.pairs: a part cannot be called 'sources', that name is taken; choose another one",
    ),
    "a part named as the metrics": (
        HEAD + "  pairs: {stage: data, parts: {metrics: {source: hh}}}\n",
        "x.yaml:5: stages.pairs: a part cannot be called 'metrics', that name is taken; choose another one",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_bad_source_or_split_is_refused_with_file_line_and_nearest_name(case):
    text, expected = SAID[case]
    with pytest.raises(SawyerError) as caught:
        recipe(text)
    assert str(caught.value).startswith(expected)


USED = f"""{BOTH}
  sft: {{model: base, data: talks, validation: test}}
  answers: {{stage: generate, model: sft, data: pairs, parts: [train]}}
  labels: {{stage: label, data: answers}}
  more: {{stage: sft, model: sft, data: labels}}
  reward: {{model: base, data: talks, validation: test}}
  evaluate: {{policies: [base, sft], data: pairs, gold_model: null}}
"""
NOT_THERE = {
    "stages.sft.part=tran": "--set stages.sft.part: stages.sft.part: 'talks' has no part 'tran'; did you mean 'train'?",
    "stages.sft.validation=dev": "--set stages.sft.validation: stages.sft.validation: 'talks' has no part 'dev'; "
    "its parts are train, test",
    "stages.reward.calibrate=dev": "--set stages.reward.calibrate: stages.reward.calibrate: 'talks' has no part "
    "'dev'; its parts are train, test",
    "stages.answers.parts=[train, tset]": "--set stages.answers.parts: stages.answers.parts.1: 'pairs' has no part "
    "'tset'; did you mean 'test'?",
    "stages.more.validation=test": "--set stages.more.validation: stages.more.validation: 'labels' has no part 'test'; "
    "its parts are train",
    "stages.pairs.split={train: 0.5, dev: 0.5}": "x.yaml:14: stages.evaluate.part: 'pairs' has no part 'test'; "
    "its parts are train, dev",
}


@pytest.mark.parametrize("override", NOT_THERE)
def test_a_part_that_is_not_there_is_found_before_the_run(override):
    assert set(plan(recipe(USED)).files) == {"talks", "pairs", "sft", "answers", "labels", "more", "reward", "evaluate"}
    with pytest.raises(SawyerError) as caught:
        plan(recipe(USED, override))
    assert str(caught.value) == NOT_THERE[override]
