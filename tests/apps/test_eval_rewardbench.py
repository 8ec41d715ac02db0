"""`sawyer eval rewardbench` and `sawyer eval leaderboard`, with baselines, tiny models and a server on this machine."""

import json
from functools import partial
from pathlib import Path

import pytest

from sawyer.data.files import raw_rows, write_rows
from sawyer.data.records import Prompt
from sawyer.feedback.implicit import ImplicitReward
from sawyer.feedback.pairwise import PairwiseModel
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_bi_encoder, load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from tests.rollout.chat_server import KEY, completion, refusal

LONG, SHORT = "A long walk through the old town.", "No."


def pair(number, subset="alpacaeval-easy", chosen=LONG, rejected=SHORT):
    return {"prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected, "subset": subset, "id": number}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Seven rows: the longer is right in Chat, the shorter in Safety, and one row is of a subset of one's own."""
    monkeypatch.chdir(tmp_path)
    rows = [pair(i) for i in range(3)]
    rows += [pair(i, "donotanswer", SHORT, LONG) for i in range(3)]
    write_rows("bench.jsonl", [*rows, pair(9, "mine")])


@pytest.fixture
def command(command):
    return partial(command, "eval")


@pytest.fixture
def bench(command):
    """`bench(*options)`: the result and what was said."""

    def call(*options, data="bench.jsonl"):
        code, out, err = command("rewardbench", "--data", data, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def saved_reward(saved_policy, tmp_path):
    """The folder of a tiny reward model; a seed gives another head."""

    def save(seed=1):
        source = saved_policy("llama")
        model = load_sequence_classifier(source, fresh_head=True, seed=seed)
        return str(save_model(model, load_tokenizer(source), tmp_path / f"reward-{seed}"))

    return save


def saved_rows(file):
    return [row.value for row in raw_rows(file)]


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
    rows = saved_rows("length.rows.jsonl")
    assert [row["id"] for row in rows] == ["0", "1", "2", "0", "1", "2", "9"]
    assert rows[0]["scores"] == [len(LONG), len(SHORT)]
    assert [row["outcome"] for row in rows] == [1, 1, 1, 0, 0, 0, 1]


def test_without_out_results_go_where_runs_are(bench):
    bench("--scorer", "random", "--seed", 3)
    result = json.loads(Path("runs/rewardbench/random-v1.json").read_text())
    assert result["protocol"] == {"scorer": "random", "seed": 3}
    assert Path("runs/rewardbench/random-v1.rows.jsonl").exists()
    assert [path.name for path in Path("runs/rewardbench").iterdir() if path.name.startswith(".")] == []


def test_equal_lengths_are_wrong_or_half(bench):
    write_rows("even.jsonl", [pair(0, chosen="abc", rejected="xyz"), pair(1, chosen="abcd", rejected="xyz")])
    assert bench("--scorer", "length", "--out", "a.json", data="even.jsonl")["overall"] == 0.5
    half = bench("--scorer", "length", "--ties", "half", "--out", "b.json", data="even.jsonl")
    assert (half["overall"], half["ties"], half["subsets"]["alpacaeval-easy"]["tied"]) == (0.75, "half", 1)


def test_for_people_there_is_a_table(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = command("rewardbench", "--data", "bench.jsonl", "--scorer", "length", "--out", "a.json")
    assert (code, err) == (0, "")
    assert out.startswith("length (length) on RewardBench, version 1\n")
    for said in ("overall", "Chat", "alpacaeval-easy", "100.0", "other subsets", "mine", "ties count as wrong"):
        assert said in out
    assert "not measured: alpacaeval-length" in out
    assert "scores of every row: a.rows.jsonl" in out


def test_bad_rows_are_said_and_counted(command):
    rows = [pair(i) for i in range(30)]
    write_rows("bad.jsonl", [*rows, pair(30, chosen=SHORT)])
    code, out, err = command("rewardbench", "--data", "bad.jsonl", "--scorer", "length", "--json")
    assert code == 0
    assert "30 of 31 rows kept; dropped: 1 two completions of a comparison are the same text" in err
    assert json.loads(out)["report"]["kept"] == 30


# --- models -----------------------------------------------------------------------------------------------------------


def expected(score):
    rows = [row.value for row in raw_rows("bench.jsonl")]
    return [score(Prompt(row["prompt"]), row["chosen"], row["rejected"]) for row in rows]


def test_a_reward_model_is_known_by_its_head(bench, saved_reward):
    model = saved_reward()
    result = bench("--model", model, "--out", "a.json")
    assert (result["scorer"], result["model"]) == ("classifier", "reward-1")
    reward = RewardModel(model)
    wanted = expected(lambda prompt, a, b: reward.score([prompt], [[a, b]])[0])
    for row, scores in zip(saved_rows("a.rows.jsonl"), wanted, strict=True):
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
    for row, scores in zip(saved_rows("a.rows.jsonl"), wanted, strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-4)


def test_scores_do_not_depend_on_the_batch(bench, saved_reward, monkeypatch):
    model = saved_reward()
    bench("--model", model, "--out", "a.json")
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 2)
    bench("--model", model, "--out", "b.json", "--token-budget", 16)
    for a, b in zip(saved_rows("a.rows.jsonl"), saved_rows("b.rows.jsonl"), strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)


def test_a_policy_scores_against_its_reference_or_by_itself(bench, saved_policy):
    policy, reference = saved_policy("llama", 1), saved_policy("llama", 2)
    assert bench("--model", policy, "--reference", reference, "--out", "a.json")["scorer"] == "dpo"
    implicit = ImplicitReward(policy, reference)
    wanted = expected(lambda prompt, a, b: implicit.score([prompt], [[a, b]])[0])
    assert saved_rows("a.rows.jsonl")[0]["scores"] == pytest.approx(wanted[0], abs=1e-3)
    found = bench("--model", policy, "--reference", reference, "--beta", 0.1, "--out", "c.json")
    assert found["protocol"]["beta"] == 0.1
    assert saved_rows("c.rows.jsonl")[0]["scores"] == pytest.approx([0.1 * score for score in wanted[0]], abs=1e-3)
    free = bench("--model", policy, "--scorer", "dpo-ref-free", "--ref-free", "norm", "--out", "b.json")
    assert free["protocol"]["ref_free"] == "norm"
    assert all(score < 0 for row in saved_rows("b.rows.jsonl") for score in row["scores"])


def test_a_pairwise_model_gives_probabilities(bench, saved_policy):
    policy = saved_policy("llama")
    result = bench("--model", policy, "--scorer", "pairwise", "--out", "a.json")
    assert result["ties"] == "half"
    model = PairwiseModel(policy, max_tokens=2048)
    wanted = expected(lambda prompt, a, b: model.prefer([prompt], [(a, b)])[0])
    assert [row["p"] for row in saved_rows("a.rows.jsonl")] == pytest.approx(wanted, abs=1e-4)


def test_an_ensemble_keeps_what_its_members_said(bench, saved_reward):
    models = ("--model", saved_reward(1), "--model", saved_reward(2))
    for rule in ("mean", "min", "mean-std", "majority"):
        result = bench(*models, "--ensemble", rule, "--out", f"{rule}.json")
        assert result["model"] == f"{rule}(reward-1, reward-2)"
        rows = saved_rows(f"{rule}.rows.jsonl")
        assert all(len(row["members"]) == 2 for row in rows)
    means = [score for row in saved_rows("mean.rows.jsonl") for score in row["scores"]]
    assert sum(means) == pytest.approx(0, abs=1e-6)
    less = [score for row in saved_rows("min.rows.jsonl") for score in row["scores"]]
    assert all(a <= b + 1e-9 for a, b in zip(less, means, strict=True))


def test_texts_that_were_cut_are_counted(bench, saved_reward):
    write_rows("long.jsonl", [pair("word " * 90), pair(1)])
    result = bench("--model", saved_reward(), "--max-tokens", 100, data="long.jsonl")
    assert result["truncated"] == 2


def test_a_killed_evaluation_goes_on(bench, command, saved_reward, monkeypatch):
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
    code, _, err = command("rewardbench", "--data", "bench.jsonl", "--model", model, "--out", "a.json")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted: run the same command again to continue where it stopped"
    result = bench("--model", model, "--out", "a.json")
    assert calls == [2, 2, 2, 2, 1]
    assert saved_rows("a.rows.jsonl") == saved_rows("whole.rows.jsonl")
    assert result["overall"] == whole["overall"]
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_an_evaluation_may_go_on_with_more_rows_at_a_time(bench, command, saved_reward, monkeypatch):
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
        code, _, _ = command("rewardbench", "--data", "bench.jsonl", "--model", model, "--out", "a.json")
        assert code == (130 if chunk == 2 else 0)
    assert calls == [2, 2, 2, 3, 3, 1]
    for a, b in zip(saved_rows("a.rows.jsonl"), saved_rows("whole.rows.jsonl"), strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)
    assert json.loads(Path("a.json").read_text())["subsets"].keys() == whole["subsets"].keys()


# --- judges -----------------------------------------------------------------------------------------------------------


def longer(request):
    text = request["messages"][-1]["content"]
    a, b = (text.split(f"[begin of answer of assistant {x}]\n")[1].split("\n[end of")[0] for x in "AB")
    return completion(f"[[{'A' if len(a) > len(b) else 'B'}]]")


def test_a_remote_judge(bench, serve):
    server = serve(longer)
    result = bench("--endpoint", server.url, "--model", "m", "--out", "a.json")
    assert (result["scorer"], result["sections"]) == ("judge", {"Chat": 1.0, "Safety": 0.0})
    assert len(server.requests) == 4, "a question that two subsets share is asked once"
    assert saved_rows("a.rows.jsonl")[0]["games"] == [1.0]
    assert KEY not in Path("a.json").read_text()
    both = bench("--endpoint", server.url, "--model", "m", "--both-orders", "--out", "b.json")
    assert both["protocol"]["both_orders"] is True
    assert len(server.requests) == 12


def test_a_judge_without_a_verdict_gets_one_half(bench, serve):
    server = serve(lambda request: completion("I would rather not say."))
    result = bench("--endpoint", server.url, "--model", "m")
    assert (result["overall"], result["ties"]) == (0.5, "half")
    assert result["unread"] == 7


def test_an_outage_is_no_draw_and_what_was_answered_is_not_asked_again(bench, command, serve):
    down = ["Question 1?"]

    def answer(request):
        text = request["messages"][-1]["content"]
        return refusal(500, "oops") if any(question in text for question in down) else longer(request)

    server = serve(answer)
    judge = ("--endpoint", server.url, "--model", "m", "--retries", 0, "--out", "a.json")
    code, out, err = command("rewardbench", "--data", "bench.jsonl", *judge)
    assert (code, out) == (2, "")
    assert "left 2 of 7 questions for another time" in err
    assert not Path("a.json").exists()
    down.clear()
    server.requests.clear()
    assert bench(*judge)["sections"] == {"Chat": 1.0, "Safety": 0.0}
    assert len(server.requests) == 1


def test_a_local_judge(bench, saved_policy):
    model = saved_policy("llama")
    config = Path(model) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 1024}))
    result = bench("--model", model, "--scorer", "judge", "--judge-tokens", 3)
    assert result["overall"] == 0.5, "a random model writes no verdict"


# --- version 2 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def second():
    rows = [
        {"id": "1", "prompt": "Why?", "chosen": ["aaaa"], "rejected": ["a", "aa", "aaa"], "subset": "Math"},
        {"id": "2", "prompt": "How?", "chosen": ["aaaa"], "rejected": ["a", "aaaa ", "bbbb"], "subset": "Math"},
        {"id": "ref:1", "prompt": "A color?", "chosen": ["aaaa"], "rejected": ["aa", "a"], "subset": "Ties"},
        {"id": "tied:1", "prompt": "Colors?", "chosen": ["a" * 6, "a" * 5], "rejected": ["aa", "a"], "subset": "Ties"},
    ]
    write_rows("second.jsonl", rows)


def test_version_2_is_seen_from_the_rows(bench, second):
    result = bench("--scorer", "length", data="second.jsonl")
    assert result["version"] == 2
    assert result["subsets"]["Math"]["accuracy"] == 0.5
    assert result["subsets"]["Ties"]["accuracy"] == pytest.approx(1 + 0.01 * 0.7616, abs=1e-4)
    assert result["overall"] == pytest.approx((0.5 + result["sections"]["Ties"]) / 2)
    assert result["ties"] == "shared"


def test_version_2_has_its_own_rule_for_ties(command, second):
    code, _, err = command("rewardbench", "--data", "second.jsonl", "--scorer", "length", "--ties", "half")
    assert code == 2
    assert "--ties is for version 1" in err


def test_a_pairwise_model_ranks_four(bench, second, saved_policy):
    result = bench("--model", saved_policy("llama"), "--scorer", "pairwise", data="second.jsonl")
    rows = saved_rows(result["rows_file"])
    assert sum(rows[0]["scores"]) == pytest.approx(2.0, abs=1e-5)


def test_a_judge_rates_in_version_2_and_asks_for_correctness_in_ties(bench, second, serve):
    server = serve(lambda request: completion(f"[[{3 if 'aaaa' in request['messages'][-1]['content'] else 2}]]"))
    result = bench("--endpoint", server.url, "--model", "m", data="second.jsonl")
    assert result["subsets"]["Math"]["accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    about = ["is right" in request["messages"][-1]["content"].split("[begin")[0] for request in server.requests]
    assert sum(about) == 7
    assert len(about) == 15


# --- leaderboard ------------------------------------------------------------------------------------------------------


def test_the_leaderboard_takes_result_files(bench, command):
    bench("--scorer", "length", "--out", "a.json")
    bench("--scorer", "random", "--out", "b.json")
    code, out, _ = command("leaderboard", "a.json", "b.json")
    assert code == 0
    assert out.splitlines()[0] == "|  | Model | Scorer | Score | Interval | Chat | Safety | Other |"
    assert "| length | length | 50.0 |" in out


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    "nothing to score with": ([], "give --model, or a scorer that needs none"),
    "no such scorer": (["--scorer", "magic"], "--scorer"),
    "a baseline with a model": (["--scorer", "length", "--model", "POLICY"], "needs no model"),
    "a language model": (["--model", "POLICY"], "is a language model and not a reward model"),
    "no head": (["--model", "POLICY", "--scorer", "classifier"], "without a head that scores"),
    "dpo without reference": (["--model", "POLICY", "--scorer", "dpo"], "needs --reference"),
    "a reference for nothing": (["--scorer", "length", "--reference", "POLICY"], "--reference is for --scorer dpo"),
    "a beta for nothing": (["--scorer", "length", "--beta", "0.1"], "--beta is for --scorer dpo"),
    "an ensemble of one": (["--model", "POLICY", "--scorer", "pairwise", "--ensemble", "mean"], "at least two models"),
    "two models": (["--model", "POLICY", "--model", "POLICY", "--scorer", "pairwise"], "--ensemble"),
    "the least of preferences": (
        ["--model", "POLICY", "--model", "POLICY", "--scorer", "pairwise", "--ensemble", "min"],
        "mean, median, majority, reliability",
    ),
    "an endpoint that classifies": (
        ["--model", "m", "--endpoint", "http://localhost:1/v1", "--scorer", "classifier"],
        "can only be a judge",
    ),
    "no endpoint": (["--scorer", "length", "--concurrency", "3"], "give --endpoint too"),
    "a cache for nothing": (["--scorer", "length", "--cache", "c"], "give --endpoint too"),
    "a rule without a name": (["--scorer", "rule"], "give --rule"),
    "a rule for nothing": (["--scorer", "length", "--rule", "nouns"], "--rule is for --scorer rule"),
    "words for nothing": (
        ["--scorer", "rule", "--rule", "nouns", "--words", "a"],
        "--words is for --rule bag_of_words",
    ),
    "a bag without words": (["--scorer", "rule", "--rule", "bag_of_words"], "needs a list of words"),
    "force for nothing": (["--model", "POLICY", "--scorer", "pairwise", "--force"], "--force is for --chat-template"),
    "another template": (
        ["--model", "POLICY", "--scorer", "pairwise", "--chat-template", "plain"],
        "was trained with another chat template",
    ),
    "another template for a judge": (
        ["--model", "POLICY", "--scorer", "judge", "--chat-template", "plain"],
        "was trained with another chat template",
    ),
    "both orders for nothing": (["--scorer", "length", "--both-orders"], "--both-orders is for --scorer judge"),
    "no such ties": (["--scorer", "length", "--ties", "often"], "choose wrong or half"),
    "no such version": (["--scorer", "length", "--version", "3"], "versions 1 and 2"),
    "the other version": (["--scorer", "length", "--version", "2"], "are of version 1"),
    "no such folder": (["--scorer", "length", "--out", "no/a.json"], "there is no folder no"),
    "not json": (["--scorer", "length", "--out", "a.txt"], "must end with .json"),
    "there already": (["--scorer", "length", "--out", "there.json"], "is there already"),
    "no such model": (["--model", "no/such/model"], "There is no model at no/such/model"),
    "prior sets of a file": (["--scorer", "length", "--prior"], "--prior is for --data hub"),
    "no such file": (["--scorer", "length", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
}


@pytest.mark.parametrize(("options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(command, saved_policy, capsys, options, said):
    policy = saved_policy("llama")
    capsys.readouterr()
    Path("there.json").write_text("precious")
    options = [policy if option == "POLICY" else option for option in options]
    data = [] if "--data" in options else ["--data", "bench.jsonl"]
    code, out, err = command("rewardbench", *data, *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert Path("there.json").read_text() == "precious"


def test_a_leaderboard_of_something_else_is_a_mistake(command):
    Path("other.json").write_text('{"model": 1}')
    for file in ("other.json", "nowhere.json"):
        code, out, err = command("leaderboard", file)
        assert (code, out) == (2, "")
        assert f"{file} is not a result of `sawyer eval rewardbench`" in err


def test_a_reward_model_that_breaks_is_said(command, saved_reward, monkeypatch):
    monkeypatch.setattr(RewardModel, "score", lambda self, prompts, texts: [[float("nan")] * len(own) for own in texts])
    code, _, err = command("rewardbench", "--data", "bench.jsonl", "--model", saved_reward())
    assert code == 2
    assert "a score that is not a finite number" in err


def test_every_scorer_setting_is_an_option_and_help_has_examples(command):
    from sawyer.apps.scorer_settings import ScorerSettings

    code, out, _ = command("rewardbench", "--help")
    assert code == 0
    for name in (*ScorerSettings.model_fields, "concurrency", "key_variable"):
        assert "--" + name.replace("_", "-") in out
    assert out.count("Example: sawyer eval rewardbench") == 5
