"""`sawyer eval rewardbench` with baselines and tiny models: scores, results, and going on after a kill."""

import json
from functools import partial
from pathlib import Path

import pytest

from sawyer.data.files import write_rows
from sawyer.data.records import Prompt
from sawyer.feedback.implicit import ImplicitReward
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_bi_encoder
from sawyer.models.save import save_model
from tests.apps.conftest import LONG, SHORT, bench_pair, rows

pytestmark = pytest.mark.usefixtures("bench_rows")


@pytest.fixture
def evaluate(command):
    return partial(command, "eval")


# --- baselines --------------------------------------------------------------------------------------------------------


def test_choosing_the_longer_is_right_where_the_longer_is(bench):
    result = bench("--scorer", "length", "--out", "length.json")
    assert {name: subset["accuracy"] for name, subset in result["subsets"].items()} == {
        "alpacaeval-easy": 1.0,
        "donotanswer": 0.0,
        "mine": 1.0,
    }
    assert result["sections"] == {"Chat": 1.0, "Safety": 0.0}
    assert result["overall"] == 0.5
    assert result["other"]["subsets"] == ["mine"]
    assert (result["ties"], result["model"], result["version"]) == ("wrong", "length", 1)
    assert json.loads(Path("length.json").read_text()) == result
    assert bench("--scorer", "shorter")["sections"] == {"Chat": 0.0, "Safety": 1.0}


def test_a_rule_of_the_text_scores(bench):
    result = bench("--scorer", "rule", "--rule", "length", "--out", "a.json")
    assert (result["scorer"], result["model"], result["sections"]) == ("rule", "length", {"Chat": 1.0, "Safety": 0.0})
    assert result["protocol"] == {"scorer": "rule", "rule": "length"}


def test_the_scores_of_every_row_lie_beside_the_result(bench):
    result = bench("--scorer", "length", "--out", "length.json")
    assert result["rows_file"] == "length.rows.jsonl"
    found = rows("length.rows.jsonl")
    assert [row["id"] for row in found] == ["0", "1", "2", "0", "1", "2", "9"]
    assert found[0]["scores"] == [len(LONG), len(SHORT)]
    assert [row["outcome"] for row in found] == [1, 1, 1, 0, 0, 0, 1]


def test_without_out_results_go_where_runs_are(bench):
    bench("--scorer", "random", "--seed", 3)
    result = json.loads(Path("runs/rewardbench/random-v1.json").read_text())
    assert result["protocol"] == {"scorer": "random", "seed": 3}
    assert Path("runs/rewardbench/random-v1.rows.jsonl").exists()
    assert [path.name for path in Path("runs/rewardbench").iterdir() if path.name.startswith(".")] == []


def test_equal_lengths_are_wrong_or_half(bench):
    write_rows(
        "even.jsonl", [bench_pair(0, chosen="abc", rejected="xyz"), bench_pair(1, chosen="abcd", rejected="xyz")]
    )
    assert bench("--scorer", "length", "--out", "a.json", data="even.jsonl")["overall"] == 0.5
    half = bench("--scorer", "length", "--ties", "half", "--out", "b.json", data="even.jsonl")
    assert (half["overall"], half["ties"], half["subsets"]["alpacaeval-easy"]["tied"]) == (0.75, "half", 1)


def test_for_people_there_is_a_table(evaluate, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = evaluate("rewardbench", "--data", "bench.jsonl", "--scorer", "length", "--out", "a.json")
    assert (code, err) == (0, "")
    assert out.startswith("length (length) on RewardBench, version 1\n")
    for said in ("overall", "Chat", "alpacaeval-easy", "100.0", "other subsets", "mine", "ties count as wrong"):
        assert said in out
    assert "not measured: alpacaeval-length" in out
    assert "scores of every row: a.rows.jsonl" in out


def test_bad_rows_are_said_and_counted(evaluate):
    good = [bench_pair(i) for i in range(30)]
    write_rows("bad.jsonl", [*good, bench_pair(30, chosen=SHORT)])
    code, out, err = evaluate("rewardbench", "--data", "bad.jsonl", "--scorer", "length", "--json")
    assert code == 0
    assert "30 of 31 rows kept; dropped: 1 two completions of a comparison are the same text" in err
    assert json.loads(out)["report"]["kept"] == 30


# --- models -----------------------------------------------------------------------------------------------------------


def expected(score):
    return [score(Prompt(row["prompt"]), row["chosen"], row["rejected"]) for row in rows("bench.jsonl")]


def test_a_reward_model_is_known_by_its_head(bench, saved_reward):
    model = saved_reward()
    result = bench("--model", model, "--out", "a.json")
    assert (result["scorer"], result["model"]) == ("classifier", "reward-1")
    reward = RewardModel(model)
    wanted = expected(lambda prompt, a, b: reward.score([prompt], [[a, b]])[0])
    for row, scores in zip(rows("a.rows.jsonl"), wanted, strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-4)
    assert result["protocol"] == {
        "scorer": "classifier",
        "models": [model],
        "precision": "fp32",
        "chat_template": "the model's own",
        "max_tokens": 2048,
        "truncation": "left",
    }


def test_an_encoder_says_how_it_reads(bench, saved_encoder, encoder_tokenizer, tmp_path):
    model = load_bi_encoder(saved_encoder("roberta"), fresh_heads=True, seed=1)
    folder = str(save_model(model, encoder_tokenizer("roberta"), tmp_path / "bi"))
    result = bench("--model", folder, "--out", "a.json", "--max-tokens", 8)
    assert result["scorer"] == "classifier"
    read = {name: result["protocol"][name] for name in ("chat_template", "max_tokens", "truncation")}
    assert read == {"chat_template": None, "max_tokens": 8, "truncation": "longest first"}
    reward = RewardModel(folder, max_tokens=8)
    wanted = expected(lambda prompt, a, b: reward.score([prompt], [[a, b]])[0])
    assert result["truncated"] == reward.truncated > 0
    for row, scores in zip(rows("a.rows.jsonl"), wanted, strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-4)


def test_scores_do_not_depend_on_the_batch(bench, saved_reward, monkeypatch):
    model = saved_reward()
    bench("--model", model, "--out", "a.json")
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 2)
    bench("--model", model, "--out", "b.json", "--token-budget", 16)
    for a, b in zip(rows("a.rows.jsonl"), rows("b.rows.jsonl"), strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)


def test_a_policy_scores_against_its_reference_or_by_itself(bench, saved_policy):
    policy, reference = saved_policy("llama", 1), saved_policy("llama", 2)
    assert bench("--model", policy, "--reference", reference, "--out", "a.json")["scorer"] == "dpo"
    implicit = ImplicitReward(policy, reference)
    wanted = expected(lambda prompt, a, b: implicit.score([prompt], [[a, b]])[0])
    assert rows("a.rows.jsonl")[0]["scores"] == pytest.approx(wanted[0], abs=1e-3)
    found = bench("--model", policy, "--reference", reference, "--beta", 0.1, "--out", "c.json")
    assert found["protocol"]["beta"] == 0.1
    assert rows("c.rows.jsonl")[0]["scores"] == pytest.approx([0.1 * score for score in wanted[0]], abs=1e-3)
    free = bench("--model", policy, "--scorer", "dpo-ref-free", "--ref-free", "norm", "--out", "b.json")
    assert free["protocol"]["ref_free"] == "norm"
    assert all(score < 0 for row in rows("b.rows.jsonl") for score in row["scores"])


def test_a_pairwise_model_gives_probabilities(bench, saved_policy):
    policy = saved_policy("llama")
    result = bench("--model", policy, "--scorer", "pairwise", "--out", "a.json")
    assert result["ties"] == "half"
    model = PairwiseModel(policy, max_tokens=2048)
    wanted = expected(lambda prompt, a, b: model.prefer([prompt], [(a, b)])[0])
    assert [row["p"] for row in rows("a.rows.jsonl")] == pytest.approx(wanted, abs=1e-4)


def test_an_ensemble_keeps_what_its_members_said(bench, saved_reward):
    models = ("--model", saved_reward(1), "--model", saved_reward(2))
    for rule in ("mean", "min", "mean-std", "majority"):
        result = bench(*models, "--ensemble", rule, "--out", f"{rule}.json")
        assert result["model"] == f"{rule}(reward-1, reward-2)"
        assert all(len(row["members"]) == 2 for row in rows(f"{rule}.rows.jsonl"))
    means = [score for row in rows("mean.rows.jsonl") for score in row["scores"]]
    assert sum(means) == pytest.approx(0, abs=1e-6)
    less = [score for row in rows("min.rows.jsonl") for score in row["scores"]]
    assert all(a <= b + 1e-9 for a, b in zip(less, means, strict=True))


def test_texts_that_were_cut_are_counted(bench, saved_reward):
    write_rows("long.jsonl", [bench_pair("word " * 90), bench_pair(1)])
    result = bench("--model", saved_reward(), "--max-tokens", 100, data="long.jsonl")
    assert result["truncated"] == 2


def test_a_killed_evaluation_goes_on(bench, evaluate, saved_reward, monkeypatch):
    model = saved_reward()
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 2)
    whole = bench("--model", model, "--out", "whole.json")
    score, calls = RewardModel.score, []

    def killed(self, prompts, completions):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "score", killed)
    code, _, err = evaluate("rewardbench", "--data", "bench.jsonl", "--model", model, "--out", "a.json")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted: run the same command again to continue where it stopped"
    result = bench("--model", model, "--out", "a.json")
    assert calls == [2, 2, 2, 2, 1]
    assert rows("a.rows.jsonl") == rows("whole.rows.jsonl")
    assert result["overall"] == whole["overall"]
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_an_evaluation_may_go_on_with_more_rows_at_a_time(bench, evaluate, saved_reward, monkeypatch):
    model = saved_reward()
    whole = bench("--model", model, "--out", "whole.json")
    score, calls = RewardModel.score, []

    def killed(self, prompts, completions):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "score", killed)
    for chunk in (2, 3):
        monkeypatch.setattr("sawyer.apps.scorers.CHUNK", chunk)
        code, _, _ = evaluate("rewardbench", "--data", "bench.jsonl", "--model", model, "--out", "a.json")
        assert code == (130 if chunk == 2 else 0)
    assert calls == [2, 2, 2, 3, 3, 1]
    for a, b in zip(rows("a.rows.jsonl"), rows("whole.rows.jsonl"), strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)
    assert json.loads(Path("a.json").read_text())["subsets"].keys() == whole["subsets"].keys()
