"""`sawyer score`: rows of every kind with their scores, in order, in constant memory, after a kill too."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sawyer.apps import score as work
from sawyer.apps.scorer_settings import ScorerSettings
from sawyer.data.files import raw_rows, write_rows
from sawyer.data.records import Prompt, assistant, user
from sawyer.feedback.ensemble import combine, scale_of
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.progress import Voice
from tests.apps.conftest import leftovers, rows
from tests.rollout.chat_server import completion

ROOT = Path(__file__).parents[2]
LONG, SHORT = "A long walk through the old town.", "No."
KINDS = {
    "pair": ({"prompt": "Why?", "chosen": LONG, "rejected": SHORT, "id": 7}, "Why?", [LONG, SHORT]),
    "ranking": ({"prompt": "Why?", "completions": [LONG, "Yes.", SHORT]}, "Why?", [LONG, "Yes.", SHORT]),
    "labelled": ({"prompt": "Why?", "completion": LONG, "label": False}, "Why?", [LONG]),
    "single": ({"prompt": [user("Why?")], "completion": [assistant(LONG)]}, "Why?", [LONG]),
    "conversation": (
        {"messages": [user("Hi"), assistant("Yes?"), user("Why?"), assistant(LONG)]},
        [user("Hi"), assistant("Yes?"), user("Why?")],
        [LONG],
    ),
    "samples": (
        {"row": 1, "prompt": [user("Why?")], "samples": [{"text": LONG, "finished": True}, {"text": ""}]},
        "Why?",
        [LONG, ""],
    ),
    "dialogues": (
        {"chosen": f"\n\nHuman: Why?\n\nAssistant: {LONG}", "rejected": f"\n\nHuman: Why?\n\nAssistant: {SHORT}"},
        "Why?",
        [LONG, SHORT],
    ),
}


def pairs(n, subject="question"):
    return [{"prompt": f"A {subject} {i}?", "chosen": f"{LONG} {i}", "rejected": SHORT} for i in range(n)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("pairs.jsonl", pairs(7))


@pytest.fixture
def command(command):
    return partial(command, "score")


@pytest.fixture
def scored(command):
    """`scored(*options)`: the summary and the rows."""

    def call(*options, data="pairs.jsonl", out="a.jsonl"):
        code, printed, err = command("--data", data, "--out", out, "--json", *options)
        assert code == 0, err
        return json.loads(printed), rows(out)

    return call


@pytest.fixture
def saved_reward(saved_policy, tmp_path):
    """The folder of a tiny reward model; a seed gives another head."""

    def save(seed=1):
        source = saved_policy("llama")
        model = load_sequence_classifier(source, fresh_head=True, seed=seed)
        return str(save_model(model, load_tokenizer(source), tmp_path / f"reward-{seed}"))

    return save


def by_the_library(model, row):
    return RewardModel(model).score([Prompt(row["prompt"])], [[row["chosen"], row["rejected"]]])[0]


# --- what is scored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "prompt", "completions"), KINDS.values(), ids=KINDS)
def test_a_row_of_any_kind_comes_back_with_its_scores(scored, saved_reward, row, prompt, completions):
    write_rows("one.jsonl", [row])
    model = saved_reward()
    summary, (found,) = scored("--model", model, data="one.jsonl")
    wanted = RewardModel(model).score([Prompt(prompt)], [completions])[0]
    assert found.pop("scores") == pytest.approx(wanted, abs=1e-5)
    assert found == row
    assert (summary["rows"], summary["completions"], summary["scorer"]) == (1, len(completions), "classifier")
    assert summary["mean"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)


def test_scores_stand_as_the_row_lists_its_completions_and_not_as_they_rank(scored):
    listed = {"prompt": "Why?", "completions": ["a", "bbb", "cc"], "scores": [1.0, 3.0, 2.0]}
    dialogues = [f"\n\nHuman: Why?\n\nAssistant: {text}" for text in ("a", "bb")]
    for row, lengths in ((listed, [1, 3, 2]), ({"text": dialogues, "score": [0.0, 1.0]}, [1, 2])):
        write_rows("one.jsonl", [row])
        _, (found,) = scored("--scorer", "length", "--column", "length", "--overwrite", data="one.jsonl")
        assert found == {**row, "length": lengths}


@pytest.mark.parametrize("out", ["a.jsonl.gz", "a.json", "a.parquet"])
@pytest.mark.parametrize("data", ["b.jsonl.gz", "b.json", "b.parquet"])
def test_files_of_any_kind_are_read_and_written(scored, data, out, monkeypatch):
    monkeypatch.setattr("sawyer.data.parquet.BATCH", 2)
    asked = [{**pair, "info": {"number": i}} for i, pair in enumerate(pairs(5))]
    write_rows(data, asked)
    _, found = scored("--scorer", "length", data=data, out=out)
    assert [row["scores"] for row in found] == [[float(len(row["chosen"])), 3.0] for row in asked]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in asked]
    infos = [json.loads(row["info"]) if isinstance(row["info"], str) else row["info"] for row in found]
    assert infos == [row["info"] for row in asked]


def test_scores_are_those_of_the_library_whatever_shares_the_chunk(scored, saved_reward, monkeypatch):
    model = saved_reward()
    _, whole = scored("--model", model)
    for row in whole:
        assert row["scores"] == pytest.approx(by_the_library(model, row), abs=1e-5)
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 2)
    monkeypatch.setattr(work, "ROW_TOKENS", 1 << 20)
    _, parts = scored("--model", model, "--token-budget", 32, out="b.jsonl")
    for a, b in zip(whole, parts, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)


def test_rows_of_one_prompt_share_its_tree(scored, saved_reward, monkeypatch):
    model = saved_reward()
    asked = [{"prompt": f"Question {i % 2}?", "completion": f"Answer {i}."} for i in range(8)]
    write_rows("singles.jsonl", asked)
    original, seen = RewardModel.score, []

    def score(self, prompts, completions):
        seen.append([(prompt.text, len(own)) for prompt, own in zip(prompts, completions, strict=True)])
        return original(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "score", score)
    _, found = scored("--model", model, data="singles.jsonl")
    assert seen == [[("Question 0?", 4), ("Question 1?", 4)]]
    reward = RewardModel(model)
    for row, given in zip(found, asked, strict=True):
        assert row["completion"] == given["completion"]
        wanted = original(reward, [Prompt(row["prompt"])], [[row["completion"]]])[0]
        assert row["scores"] == pytest.approx(wanted, abs=1e-5)


# --- scorers ----------------------------------------------------------------------------------------------------------


def test_a_policy_scores_against_its_reference(scored, saved_policy):
    policy, reference = saved_policy("llama", 1), saved_policy("llama", 2)
    summary, found = scored("--model", policy, "--reference", reference)
    assert summary["scorer"] == "dpo"
    assert all(len(row["scores"]) == 2 for row in found)


def test_a_pairwise_model_gives_the_chance_to_beat_the_others(scored, command, saved_policy):
    policy = saved_policy("llama")
    write_rows("three.jsonl", [KINDS["ranking"][0], KINDS["pair"][0]])
    _, found = scored("--model", policy, "--scorer", "pairwise", data="three.jsonl")
    model = PairwiseModel(policy, max_tokens=2048)
    assert found[0]["scores"] == pytest.approx(model.score([Prompt("Why?")], [KINDS["ranking"][2]])[0], abs=1e-5)
    assert sum(found[1]["scores"]) == pytest.approx(1, abs=1e-6)
    write_rows("singles.jsonl", [KINDS["single"][0]])
    code, _, err = command("--data", "singles.jsonl", "--out", "b.jsonl", "--model", policy, "--scorer", "pairwise")
    assert code == 2
    assert "the row has one completion, and this scorer compares the completions of a prompt" in err


@pytest.mark.parametrize("rule", ["mean", "min", "mean-std", "majority"])
def test_an_ensemble_is_brought_to_scale_over_the_whole_file(scored, saved_reward, rule, monkeypatch):
    monkeypatch.setattr(work, "ROW_TOKENS", 1 << 20)
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 3)
    models = [saved_reward(1), saved_reward(2)]
    summary, found = scored("--model", models[0], "--model", models[1], "--ensemble", rule)
    assert summary["model"] == f"{rule}(reward-1, reward-2)"
    members = [[by_the_library(model, row) for row in found] for model in models]
    wanted = combine(members, rule, scales=[scale_of(member) for member in members])
    for i, row in enumerate(found):
        assert row["scores"] == pytest.approx(wanted[i], abs=1e-3)
        assert row["scores_of_members"][1] == pytest.approx(members[1][i], abs=1e-5)


def test_a_rule_of_the_text(scored):
    summary, found = scored("--scorer", "rule", "--rule", "bag_of_words", "--words", "town", "--words", "walk")
    assert [row["scores"] for row in found] == [[2.0, 0.0]] * 7
    assert summary["protocol"] == {"scorer": "rule", "rule": "bag_of_words", "words": ["town", "walk"]}


def test_a_remote_judge_rates(scored, serve):
    server = serve(lambda request: completion(f"[[{8 if 'walk' in request['messages'][-1]['content'] else 2}]]"))
    summary, found = scored("--endpoint", server.url, "--model", "m")
    assert [row["scores"] for row in found] == [[8.0, 2.0]] * 7
    assert summary["scorer"] == "judge"


# --- size -------------------------------------------------------------------------------------------------------------


def peak_of(n):
    """The most memory that Python held while it scored a file of n rows, in bytes."""
    with Path("large.jsonl").open("w") as file:
        for row in pairs(n):
            file.write(json.dumps({**row, "prompt": row["prompt"] + " really" * 20}) + "\n")
    request = work.Request(Path("large.jsonl"), Path("b.jsonl.gz"), ScorerSettings(scorer="length"), overwrite=True)
    tracemalloc.start()
    try:
        work.score(request, Voice(quiet=True))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(monkeypatch):
    original = work.make_scorer
    monkeypatch.setattr(work, "make_scorer", lambda *asked: replace(original(*asked), chunk=64))
    peak_of(50)  # what is imported on the way counts once
    small = peak_of(500)
    assert peak_of(6000) < small + 500_000
    assert len(rows("b.jsonl.gz")) == 6000


def test_progress_knows_how_much_is_left(monkeypatch):
    seen = []

    class Heard(Voice):
        def progress(self, total, title, unit="step", start=0):
            seen.append((total, title, unit, start))
            return super().progress(total, title, unit, start)

    work.score(work.Request(Path("pairs.jsonl"), Path("a.jsonl"), ScorerSettings(scorer="length")), Heard(quiet=True))
    assert seen == [(None, "check pairs.jsonl", "row", 0), (7, "score with length", "row", 0)]


# --- interruptions ----------------------------------------------------------------------------------------------------


def stopping_after(calls, monkeypatch):
    """Lets the reward model score so many chunks, and then no more. Returns the number of completions in each."""
    original, made = RewardModel.score, []

    def score(self, prompts, completions):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(sum(map(len, completions)))
        return original(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "score", score)
    return made


def test_an_interrupted_scoring_goes_on_to_the_same_bytes(scored, command, saved_reward, monkeypatch):
    monkeypatch.setattr(work, "ROW_TOKENS", 1 << 20)
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 2)
    options = ("--model", saved_reward(1), "--model", saved_reward(2), "--ensemble", "mean")
    scored(*options, out="whole.jsonl")
    with monkeypatch.context() as patch:
        stopping_after(5, patch)  # in the second chunk of the second model
        code, _, err = command("--data", "pairs.jsonl", "--out", "a.jsonl", *options)
    assert code == 130
    assert "run the same command again" in err
    assert not Path("a.jsonl").exists()
    made = stopping_after(99, monkeypatch)
    scored(*options)
    assert made == [4, 4, 2]
    assert Path("a.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not leftovers()


@pytest.mark.parametrize("other", ["data", "column", "model", "limit"])
def test_what_was_scored_for_another_request_is_not_taken(scored, command, saved_reward, monkeypatch, other):
    monkeypatch.setattr(work, "ROW_TOKENS", 1 << 20)
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 4)
    first, second = saved_reward(1), saved_reward(2)
    with monkeypatch.context() as patch:
        stopping_after(1, patch)
        command("--data", "pairs.jsonl", "--out", "a.jsonl", "--model", first)
    made = stopping_after(99, monkeypatch)
    if other == "data":
        write_rows("pairs.jsonl", pairs(7, "matter"))
    options = {"column": ("--column", "reward"), "limit": ("--limit", 6)}.get(other, ())
    command("--data", "pairs.jsonl", "--out", "a.jsonl", "--model", second if other == "model" else first, *options)
    assert made == ([8, 4] if other == "limit" else [8, 6])


@pytest.mark.slow
def test_a_killed_scoring_goes_on(scored, saved_reward, monkeypatch):
    write_rows("many.jsonl", pairs(2000))
    model = saved_reward()
    scored("--model", model, data="many.jsonl", out="whole.jsonl")
    words = ("--data", "many.jsonl", "--model", model, "--out", "a.jsonl")
    process = subprocess.Popen(
        [sys.executable, "-m", "sawyer", "score", *words], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    states = lambda: list(Path().glob(".a.jsonl.work/*/0.json"))
    while process.poll() is None and not states():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (state,) = states()
    done = json.loads(state.read_text())["rows"]
    assert 0 < done < 2000
    assert not Path("a.jsonl").exists()
    made = stopping_after(99, monkeypatch)
    scored("--model", model, data="many.jsonl")
    assert sum(made) == 2 * (2000 - done)
    for a, b in zip(rows(), rows("whole.jsonl"), strict=True):
        assert a.pop("scores") == pytest.approx(b.pop("scores"), abs=1e-5)
        assert a == b
    assert not leftovers()


# --- bad rows and mistakes --------------------------------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch):
    def load(self, *arguments, **options):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(RewardModel, "__init__", load)


BAD = [
    '{"prompt": "Why?"}',
    '{"prompt": "Why?", "chosen": "Same.", "rejected": "Same."}',
    '{"prompt": "Why?", "chosen": "Only this."}',
    '{"prompt": "Why?", "completions": ["one"]}',
    '{"prompt": "Why?", "completions": ["one", "two"], "scores": [1, 1]}',
    '{"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "completion": "c"}',
    '{"prompt": 5, "completion": "c"}',
    "{oops",
    '{"prompt": "\\ud83d", "completion": "c"}',
]


def with_bad_rows(good):
    lines = [json.dumps(pair) for pair in pairs(good)]
    Path("bad.jsonl").write_text("\n".join([lines[0], *BAD, *lines[1:]]) + "\n")


def test_bad_rows_are_counted_said_and_left_out(scored, command):
    with_bad_rows(20)
    summary, found = scored("--scorer", "length", "--max-dropped", 0.4, data="bad.jsonl")
    assert [row["prompt"] for row in found] == [pair["prompt"] for pair in pairs(20)]
    assert (summary["report"]["kept"], sum(summary["report"]["dropped"].values())) == (20, len(BAD))
    assert summary["report"]["examples"]["the line is not valid JSON"] == ["bad.jsonl:9"]
    code, _, err = command("--scorer", "length", "--max-dropped", 0.4, "--data", "bad.jsonl", "--out", "b.jsonl")
    assert code == 0
    assert "20 of 29 rows kept; dropped:" in err


def test_too_many_bad_rows_are_refused_before_a_model_is_loaded(command, saved_reward, no_model):
    model = saved_reward()
    with_bad_rows(20)
    code, out, err = command("--model", model, "--data", "bad.jsonl", "--out", "a.jsonl")
    assert (code, out) == (2, "")
    assert "bad.jsonl: 9 of 29 rows cannot be scored, more than the share of 0.05 allowed" in err
    assert "the first: bad.jsonl:2: the row has a prompt and no completion to score; mend" in err
    assert not Path("a.jsonl").exists()
    assert not leftovers()


def test_roles_that_the_template_refuses_are_bad_rows(scored, saved_reward):
    model = saved_reward()
    tokenizer = load_tokenizer(model)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    tokenizer.save_pretrained(model)
    asked = pairs(20)
    asked[3]["prompt"] = [{"role": "system", "content": "Be brief."}, user("Why?")]
    write_rows("roles.jsonl", asked)
    summary, found = scored("--model", model, data="roles.jsonl")
    (reason,) = summary["report"]["dropped"]
    assert "the chat template refuses a conversation of system, user" in reason
    assert len(found) == 19


def test_a_score_that_is_no_number_is_said_with_its_row(command, saved_reward, monkeypatch):
    def score(self, prompts, completions):
        return [[float("nan") if "A question 3?" in prompt.text else 1.0 for _ in own]
                for prompt, own in zip(prompts, completions, strict=True)]  # fmt: skip

    monkeypatch.setattr(RewardModel, "score", score)
    code, _, err = command("--model", saved_reward(), "--data", "pairs.jsonl", "--out", "a.jsonl")
    assert code == 2
    assert "gave row 4 of pairs.jsonl a score that is not a finite number" in err


def test_another_template_is_refused_before_a_model_is_loaded(command, saved_reward, no_model):
    asked = ("--model", saved_reward(), "--chat-template", "plain")
    code, out, err = command("--data", "pairs.jsonl", "--out", "a.jsonl", *asked)
    assert (code, out) == (2, "")
    assert "was trained with another chat template" in err


def test_another_template_can_be_forced(scored, saved_reward):
    model = saved_reward()
    asked = ("--model", model, "--chat-template", "plain")
    summary, forced = scored(*asked, "--force")
    assert summary["protocol"]["chat_template"] == "plain"
    _, own = scored("--model", model, out="b.jsonl")
    assert forced[0]["scores"] != pytest.approx(own[0]["scores"], abs=1e-4)


MISTAKES = {
    "nothing to score with": ([], "give --model, or a scorer that needs none"),
    "a language model": (["--model", "POLICY"], "is a language model and not a reward model"),
    "the column is there": (["--scorer", "length", "--column", "chosen"], "row 1 of pairs.jsonl has a column 'chosen'"),
    "no column": (["--scorer", "length", "--column", " "], "--column is empty"),
    "no such format": (["--scorer", "length", "--format", "csv"], "--format is 'csv'; choose auto, alpaca"),
    "another format": (["--scorer", "length", "--format", "sharegpt"], "has no row to score among 7; the first: pairs"),
    "no rows": (["--scorer", "length", "--limit", "0"], "--limit is 0"),
    "no such folder": (["--scorer", "length", "--out", "no/a.jsonl"], "there is no folder no"),
    "no such suffix": (["--scorer", "length", "--out", "a.csv"], "a.csv has none of the suffixes"),
    "there already": (["--scorer", "length", "--out", "there.jsonl"], "is there already"),
    "no such file": (["--scorer", "length", "--data", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
    "an empty file": (["--scorer", "length", "--data", "empty.jsonl"], "empty.jsonl is empty"),
    "half a file": (["--scorer", "length", "--data", "half.jsonl"], "ends in the middle of line 2"),
    "no endpoint": (["--scorer", "length", "--concurrency", "3"], "give --endpoint too"),
}


@pytest.mark.parametrize(("options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(command, saved_policy, capsys, options, said):
    policy = saved_policy("llama")
    capsys.readouterr()
    Path("there.jsonl").write_text("precious")
    Path("empty.jsonl").touch()
    Path("half.jsonl").write_text(json.dumps(pairs(1)[0]) + '\n{"prompt": "W')
    options = [policy if option == "POLICY" else option for option in options]
    data = [] if "--data" in options else ["--data", "pairs.jsonl"]
    out = [] if "--out" in options else ["--out", "a.jsonl"]
    code, printed, err = command(*data, *out, *options)
    assert (code, printed) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert Path("there.jsonl").read_text() == "precious"
    assert not leftovers()


def test_for_people_there_is_a_line(command):
    code, out, err = command("--data", "pairs.jsonl", "--out", "a.jsonl", "--scorer", "shorter")
    assert (code, err) == (0, "")
    assert out.startswith("7 rows with 14 completions scored by shorter in ")
    assert out.rstrip().endswith(": a.jsonl")
    assert [row.value["scores"][1] for row in raw_rows("a.jsonl")] == [-3.0] * 7
