"""`sawyer eval rewardbench` with judges and on version 2, `sawyer eval leaderboard`, and what is a mistake."""

import json
from functools import partial
from pathlib import Path

import pytest

from sawyer.data.files import write_rows
from sawyer.feedback.reward_model import RewardModel
from tests.apps.conftest import rows
from tests.rollout.chat_server import KEY, completion, refusal

pytestmark = pytest.mark.usefixtures("bench_rows")


@pytest.fixture
def evaluate(command):
    return partial(command, "eval")


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
    assert rows("a.rows.jsonl")[0]["games"] == [1.0]
    assert KEY not in Path("a.json").read_text()
    both = bench("--endpoint", server.url, "--model", "m", "--both-orders", "--out", "b.json")
    assert both["protocol"]["both_orders"] is True
    assert len(server.requests) == 12


def test_a_judge_without_a_verdict_gets_one_half(bench, serve):
    server = serve(lambda request: completion("I would rather not say."))
    result = bench("--endpoint", server.url, "--model", "m")
    assert (result["overall"], result["ties"]) == (0.5, "half")
    assert result["unread"] == 7


def test_an_outage_is_no_draw_and_what_was_answered_is_not_asked_again(bench, evaluate, serve):
    down = ["Question 1?"]

    def answer(request):
        text = request["messages"][-1]["content"]
        return refusal(500, "oops") if any(question in text for question in down) else longer(request)

    server = serve(answer)
    judge = ("--endpoint", server.url, "--model", "m", "--retries", 0, "--out", "a.json")
    code, out, err = evaluate("rewardbench", "--data", "bench.jsonl", *judge)
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
    listed = [
        {"id": "1", "prompt": "Why?", "chosen": ["aaaa"], "rejected": ["a", "aa", "aaa"], "subset": "Math"},
        {"id": "2", "prompt": "How?", "chosen": ["aaaa"], "rejected": ["a", "aaaa ", "bbbb"], "subset": "Math"},
        {"id": "ref:1", "prompt": "A color?", "chosen": ["aaaa"], "rejected": ["aa", "a"], "subset": "Ties"},
        {"id": "tied:1", "prompt": "Colors?", "chosen": ["a" * 6, "a" * 5], "rejected": ["aa", "a"], "subset": "Ties"},
    ]
    write_rows("second.jsonl", listed)


def test_version_2_is_seen_from_the_rows(bench, second):
    result = bench("--scorer", "length", data="second.jsonl")
    assert result["version"] == 2
    assert result["subsets"]["Math"]["accuracy"] == 0.5
    assert result["subsets"]["Ties"]["accuracy"] == pytest.approx(1 + 0.01 * 0.7616, abs=1e-4)
    assert result["overall"] == pytest.approx((0.5 + result["sections"]["Ties"]) / 2)
    assert result["ties"] == "shared"


def test_version_2_has_its_own_rule_for_ties(evaluate, second):
    code, _, err = evaluate("rewardbench", "--data", "second.jsonl", "--scorer", "length", "--ties", "half")
    assert code == 2
    assert "--ties is for version 1" in err


def test_a_pairwise_model_ranks_four(bench, second, saved_policy):
    result = bench("--model", saved_policy("llama"), "--scorer", "pairwise", data="second.jsonl")
    assert sum(rows(result["rows_file"])[0]["scores"]) == pytest.approx(2.0, abs=1e-5)


def test_a_judge_rates_in_version_2_and_asks_for_correctness_in_ties(bench, second, serve):
    server = serve(lambda request: completion(f"[[{3 if 'aaaa' in request['messages'][-1]['content'] else 2}]]"))
    result = bench("--endpoint", server.url, "--model", "m", data="second.jsonl")
    assert result["subsets"]["Math"]["accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    about = ["is right" in request["messages"][-1]["content"].split("[begin")[0] for request in server.requests]
    assert sum(about) == 7
    assert len(about) == 15


# --- leaderboard ------------------------------------------------------------------------------------------------------


def test_the_leaderboard_takes_result_files(bench, evaluate):
    bench("--scorer", "length", "--out", "a.json")
    bench("--scorer", "random", "--out", "b.json")
    code, out, _ = evaluate("leaderboard", "a.json", "b.json")
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
def test_a_mistake_is_one_sentence(evaluate, saved_policy, capsys, options, said):
    policy = saved_policy("llama")
    capsys.readouterr()
    Path("there.json").write_text("precious")
    options = [policy if option == "POLICY" else option for option in options]
    data = [] if "--data" in options else ["--data", "bench.jsonl"]
    code, out, err = evaluate("rewardbench", *data, *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert Path("there.json").read_text() == "precious"


def test_a_leaderboard_of_something_else_is_a_mistake(evaluate):
    Path("other.json").write_text('{"model": 1}')
    for file in ("other.json", "nowhere.json"):
        code, out, err = evaluate("leaderboard", file)
        assert (code, out) == (2, "")
        assert f"{file} is not a result of `sawyer eval rewardbench`" in err


def test_a_reward_model_that_breaks_is_said(evaluate, saved_reward, monkeypatch):
    monkeypatch.setattr(RewardModel, "score", lambda self, prompts, texts: [[float("nan")] * len(own) for own in texts])
    code, _, err = evaluate("rewardbench", "--data", "bench.jsonl", "--model", saved_reward())
    assert code == 2
    assert "a score that is not a finite number" in err


def test_every_scorer_setting_is_an_option_and_help_has_examples(evaluate):
    from sawyer.apps.scorer_settings import ScorerSettings

    code, out, _ = evaluate("rewardbench", "--help")
    assert code == 0
    for name in (*ScorerSettings.model_fields, "concurrency", "key_variable"):
        assert "--" + name.replace("_", "-") in out
    assert out.count("Example: sawyer eval rewardbench") == 5
