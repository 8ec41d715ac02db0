"""`sawyer score`: rows of every kind with their scores, in order, in constant memory."""

import json
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
from sawyer.pipeline.progress import Voice
from tests.apps.conftest import LONG, SHORT, pairs, rows
from tests.rollout.chat_server import completion

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


@pytest.fixture(autouse=True)
def asked(here):
    write_rows("pairs.jsonl", pairs(7))


@pytest.fixture
def scoring(command):
    """Runs `sawyer score ...`; returns exit code, stdout and stderr."""
    return partial(command, "score")


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


def test_a_pairwise_model_gives_the_chance_to_beat_the_others(scored, scoring, saved_policy):
    policy = saved_policy("llama")
    write_rows("three.jsonl", [KINDS["ranking"][0], KINDS["pair"][0]])
    _, found = scored("--model", policy, "--scorer", "pairwise", data="three.jsonl")
    model = PairwiseModel(policy, max_tokens=2048)
    assert found[0]["scores"] == pytest.approx(model.score([Prompt("Why?")], [KINDS["ranking"][2]])[0], abs=1e-5)
    assert sum(found[1]["scores"]) == pytest.approx(1, abs=1e-6)
    write_rows("singles.jsonl", [KINDS["single"][0]])
    code, _, err = scoring("--data", "singles.jsonl", "--out", "b.jsonl", "--model", policy, "--scorer", "pairwise")
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
    assert peak_of(3000) < small + 500_000
    assert len(rows("b.jsonl.gz")) == 3000


def test_progress_knows_how_much_is_left(monkeypatch):
    seen = []

    class Heard(Voice):
        def progress(self, total, title, unit="step", start=0):
            seen.append((total, title, unit, start))
            return super().progress(total, title, unit, start)

    work.score(work.Request(Path("pairs.jsonl"), Path("a.jsonl"), ScorerSettings(scorer="length")), Heard(quiet=True))
    assert seen == [(None, "check pairs.jsonl", "row", 0), (7, "score with length", "row", 0)]


def test_for_people_there_is_a_line(scoring):
    code, out, err = scoring("--data", "pairs.jsonl", "--out", "a.jsonl", "--scorer", "shorter")
    assert (code, err) == (0, "")
    assert out.startswith("7 rows with 14 completions scored by shorter in ")
    assert out.rstrip().endswith(": a.jsonl")
    assert [row.value["scores"][1] for row in raw_rows("a.jsonl")] == [-3.0] * 7
