"""`sawyer score`: after a kill too, and what is wrong with rows and requests is one sentence."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from sawyer.apps import score as work
from sawyer.data.files import write_rows
from sawyer.data.records import user
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.load import load_tokenizer
from tests.apps.conftest import leftovers, pairs, rows
from tests.lives import ENVIRONMENT


@pytest.fixture(autouse=True)
def asked(here):
    write_rows("pairs.jsonl", pairs(7))


@pytest.fixture
def scoring(command):
    """Runs `sawyer score ...`; returns exit code, stdout and stderr."""
    return partial(command, "score")


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


def test_an_interrupted_scoring_goes_on_to_the_same_bytes(scored, scoring, saved_reward, monkeypatch):
    monkeypatch.setattr(work, "ROW_TOKENS", 1 << 20)
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 2)
    options = ("--model", saved_reward(1), "--model", saved_reward(2), "--ensemble", "mean")
    scored(*options, out="whole.jsonl")
    with monkeypatch.context() as patch:
        stopping_after(5, patch)  # in the second chunk of the second model
        code, _, err = scoring("--data", "pairs.jsonl", "--out", "a.jsonl", *options)
    assert code == 130
    assert "run the same command again" in err
    assert not Path("a.jsonl").exists()
    made = stopping_after(99, monkeypatch)
    scored(*options)
    assert made == [4, 4, 2]
    assert Path("a.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not leftovers()


@pytest.mark.parametrize("other", ["data", "column", "model", "limit"])
def test_what_was_scored_for_another_request_is_not_taken(scored, scoring, saved_reward, monkeypatch, other):
    monkeypatch.setattr(work, "ROW_TOKENS", 1 << 20)
    monkeypatch.setattr("sawyer.apps.scorers.CHUNK", 4)
    first, second = saved_reward(1), saved_reward(2)
    with monkeypatch.context() as patch:
        stopping_after(1, patch)
        scoring("--data", "pairs.jsonl", "--out", "a.jsonl", "--model", first)
    made = stopping_after(99, monkeypatch)
    if other == "data":
        write_rows("pairs.jsonl", pairs(7, "matter"))
    options = {"column": ("--column", "reward"), "limit": ("--limit", 6)}.get(other, ())
    scoring("--data", "pairs.jsonl", "--out", "a.jsonl", "--model", second if other == "model" else first, *options)
    assert made == ([8, 4] if other == "limit" else [8, 6])


@pytest.mark.slow
def test_a_killed_scoring_goes_on(scored, saved_reward, monkeypatch):
    write_rows("many.jsonl", pairs(2000))
    model = saved_reward()
    scored("--model", model, data="many.jsonl", out="whole.jsonl")
    words = ("--data", "many.jsonl", "--model", model, "--out", "a.jsonl")
    process = subprocess.Popen([sys.executable, "-m", "sawyer", "score", *words], env=ENVIRONMENT)
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


def test_bad_rows_are_counted_said_and_left_out(scored, scoring):
    with_bad_rows(20)
    summary, found = scored("--scorer", "length", "--max-dropped", 0.4, data="bad.jsonl")
    assert [row["prompt"] for row in found] == [pair["prompt"] for pair in pairs(20)]
    assert (summary["report"]["kept"], sum(summary["report"]["dropped"].values())) == (20, len(BAD))
    assert summary["report"]["examples"]["the line is not valid JSON"] == ["bad.jsonl:9"]
    code, _, err = scoring("--scorer", "length", "--max-dropped", 0.4, "--data", "bad.jsonl", "--out", "b.jsonl")
    assert code == 0
    assert "20 of 29 rows kept; dropped:" in err


def test_too_many_bad_rows_are_refused_before_a_model_is_loaded(scoring, saved_reward, no_model):
    model = saved_reward()
    with_bad_rows(20)
    code, out, err = scoring("--model", model, "--data", "bad.jsonl", "--out", "a.jsonl")
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


def test_a_score_that_is_no_number_is_said_with_its_row(scoring, saved_reward, monkeypatch):
    def score(self, prompts, completions):
        return [[float("nan") if "A question 3?" in prompt.text else 1.0 for _ in own]
                for prompt, own in zip(prompts, completions, strict=True)]  # fmt: skip

    monkeypatch.setattr(RewardModel, "score", score)
    code, _, err = scoring("--model", saved_reward(), "--data", "pairs.jsonl", "--out", "a.jsonl")
    assert code == 2
    assert "gave row 4 of pairs.jsonl a score that is not a finite number" in err


def test_another_template_is_refused_before_a_model_is_loaded(scoring, saved_reward, no_model):
    asked = ("--model", saved_reward(), "--chat-template", "plain")
    code, out, err = scoring("--data", "pairs.jsonl", "--out", "a.jsonl", *asked)
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
def test_a_mistake_is_one_sentence(scoring, saved_policy, capsys, options, said):
    policy = saved_policy("llama")
    capsys.readouterr()
    Path("there.jsonl").write_text("precious")
    Path("empty.jsonl").touch()
    Path("half.jsonl").write_text(json.dumps(pairs(1)[0]) + '\n{"prompt": "W')
    options = [policy if option == "POLICY" else option for option in options]
    data = [] if "--data" in options else ["--data", "pairs.jsonl"]
    out = [] if "--out" in options else ["--out", "a.jsonl"]
    code, printed, err = scoring(*data, *out, *options)
    assert (code, printed) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert Path("there.jsonl").read_text() == "precious"
    assert not leftovers()
