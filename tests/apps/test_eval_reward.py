"""`sawyer eval reward`: figures of a reward model on pairs, and what fools it."""

import json
from functools import partial
from pathlib import Path

import pytest

from sawyer.apps import evaluate_pairs
from sawyer.data.files import write_rows
from sawyer.data.records import Prompt
from sawyer.evals.reward_models import fit_temperature
from sawyer.feedback.reward_model import RewardModel

GOOD = "A glacier is a body of ice. It moves slowly, under its own weight."


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": f"Question {i}?",
            "chosen": f"{GOOD} Number {i}.",
            "rejected": "No idea." if i % 4 else f"{GOOD} Number {i}. That is all that there is to say.",
            "chosen_model": "big",
            "rejected_model": "small",
        }
        for i in range(12)
    ]
    write_rows("pairs.jsonl", rows)


@pytest.fixture
def command(command):
    return partial(command, "eval", "reward")


@pytest.fixture
def figures(command):
    def call(*options, data="pairs.jsonl"):
        code, out, err = command("--data", data, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def reward(saved_reward):
    return saved_reward()


def test_a_model_that_counts_characters_is_seen_through(figures):
    found = figures("--scorer", "length")
    assert found["accuracy"]["mean"] == found["longer_wins"]["mean"] == 0.75
    assert [group["accuracy"] for group in found["length_differences"]] == [
        group["longer_wins"] for group in found["length_differences"]
    ]
    assert found["sources"]["source_only"]["mean"] == 1
    assert found["sources"]["pairs"][0]["n"] == 12
    assert found["probes"]["empty"]["accuracy"]["mean"] == 1
    assert found["probes"]["gibberish"]["accuracy"]["mean"] == 0.5, "gibberish is as long"
    assert found["length_unit"] == "characters"
    assert found["heat_map"] is None


def test_a_reward_model(figures, reward):
    found = figures("--model", reward, "--out", "a.json")
    assert json.loads(Path("a.json").read_text()) == found
    assert found["pairs"] == 12
    assert {"ece", "adaptive_ece", "temperature", "ece_after"} <= found["calibration"].keys()
    assert set(found["probes"]) == {"gibberish", "off_topic", "repeated", "truncated", "empty", "order_swapped"}
    assert all(found["probes"][name]["accuracy"]["n"] == 12 for name in ("empty", "gibberish", "truncated"))
    alone = figures("--model", reward, "--no-probes")
    assert alone["probes"] is None
    assert alone["margin"]["mean"] == pytest.approx(found["margin"]["mean"], abs=1e-4)


def test_the_temperature_may_come_from_other_pairs(figures, reward):
    rows = [{"prompt": f"Other {i}?", "chosen": GOOD, "rejected": f"No idea {i}."} for i in range(9)]
    write_rows("other.jsonl", rows)
    found = figures("--model", reward, "--calibrate", "other.jsonl", "--out", "a.json")
    calibration = found["calibration"]
    assert (calibration["fitted_on"], calibration["measured_on"], found["calibrate"]) == (9, 12, "other.jsonl")
    scores = RewardModel(reward).score([Prompt(row["prompt"]) for row in rows], [[GOOD, r["rejected"]] for r in rows])
    assert calibration["temperature"] == pytest.approx(fit_temperature([a - b for a, b in scores]), rel=0.01)
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_the_table_says_what_the_temperature_was_measured_on(command):
    write_rows("other.jsonl", [{"prompt": f"{i}?", "chosen": GOOD, "rejected": "No."} for i in range(4)])
    asked = ("--data", "pairs.jsonl", "--scorer", "length", "--no-probes")
    assert "ECE on half, divided by T" in command(*asked)[1]
    assert "ECE, divided by T" in command(*asked, "--calibrate", "other.jsonl")[1]


def test_a_pairwise_model_is_asked_about_every_pair(figures, saved_policy):
    found = figures("--model", saved_policy("llama"), "--scorer", "pairwise")
    assert found["probes"]["empty"]["accuracy"]["n"] == 12
    assert 0 <= found["accuracy"]["mean"] <= 1


def test_what_an_ensemble_says_of_pairs_does_not_depend_on_probes(figures, saved_reward):
    models = ("--model", saved_reward(1), "--model", saved_reward(2), "--ensemble", "mean")
    with_probes, without = figures(*models), figures(*models, "--no-probes")
    assert with_probes["margin"]["mean"] == pytest.approx(without["margin"]["mean"], abs=1e-4)
    assert with_probes["log_loss"]["mean"] == pytest.approx(without["log_loss"]["mean"], abs=1e-4)


def test_a_policys_beta_makes_its_probabilities(figures, saved_policy):
    policy = ("--model", saved_policy("llama", 1), "--reference", saved_policy("llama", 2), "--no-probes")
    whole, tenth = figures(*policy), figures(*policy, "--beta", 0.1)
    assert tenth["accuracy"] == whole["accuracy"]
    assert tenth["margin"]["mean"] == pytest.approx(0.1 * whole["margin"]["mean"], rel=1e-3, abs=1e-4)


def test_scores_are_kept_until_everything_is_written(command, reward, monkeypatch):
    score, calls, page = RewardModel.score, [], evaluate_pairs.page

    def counted(self, prompts, completions):
        calls.append(len(prompts))
        return score(self, prompts, completions)

    def no_plot(result):
        raise KeyboardInterrupt

    monkeypatch.setattr(RewardModel, "score", counted)
    monkeypatch.setattr(evaluate_pairs, "page", no_plot)
    options = ("--data", "pairs.jsonl", "--model", reward, "--page", "a.html")
    assert command(*options)[0] == 130
    monkeypatch.setattr(evaluate_pairs, "page", page)
    assert command(*options)[0] == 0
    assert calls == [12]
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_samples_give_the_heat_map_of_reward_and_length(figures):
    rows = [
        {"row": i, "prompt": [{"role": "user", "content": f"{i}?"}], "samples": [{"text": "a" * k} for k in (3, 9, i)]}
        for i in range(4)
    ]
    write_rows("samples.jsonl", [*rows, {**rows[0], "samples": [{"text": "alone"}]}])
    heat_map = figures("--scorer", "length", "--samples", "samples.jsonl")["heat_map"]
    assert (heat_map["prompts"], heat_map["dropped"]) == (4, 0)
    assert heat_map["correlation"]["mean"] == pytest.approx(1)


def test_the_page_stands_by_itself(command, figures):
    write_rows(
        "samples.jsonl", [{"prompt": [{"role": "user", "content": "?"}], "samples": [{"text": "a"}, {"text": "bb"}]}]
    )
    code, out, _ = command(
        "--data", "pairs.jsonl", "--scorer", "length", "--samples", "samples.jsonl", "--page", "a.html"
    )
    assert code == 0
    assert out.startswith("length (length): 12 pairs of 12 prompts")
    for said in ("accuracy", "choosing the longer", "adaptive ECE", "good over off topic", "big over small"):
        assert said in out
    page = Path("a.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "<script" not in page
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


MISTAKES = {
    "a judge": (["--model", "POLICY", "--scorer", "judge"], "verdicts are neither"),
    "samples of pairs": (["--model", "POLICY", "--scorer", "pairwise", "--samples", "s.jsonl"], "--samples needs"),
    "no samples": (["--scorer", "length", "--samples", "pairs.jsonl"], "has no `prompt` and `samples`"),
    "fitted on the test": (["--scorer", "length", "--calibrate", "pairs.jsonl"], "12 prompts of --data stand in"),
    "a scale of its own": (
        ["--model", "POLICY", "--model", "POLICY", "--scorer", "pairwise", "--ensemble", "mean", "--calibrate", "a"],
        "--calibrate is for single models",
    ),
    "no such file": (["--scorer", "length", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    "not html": (["--scorer", "length", "--page", "a.json"], "must end with .html"),
}


@pytest.mark.parametrize(("options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(command, saved_policy, capsys, options, said):
    policy = saved_policy("llama")
    capsys.readouterr()
    options = [policy if option == "POLICY" else option for option in options]
    data = [] if "--data" in options else ["--data", "pairs.jsonl"]
    code, out, err = command(*data, *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
