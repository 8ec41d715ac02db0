"""`sawyer eval best-of-n` with a tiny model, and on samples that are there."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sawyer.apps import best_of_n as work
from sawyer.data.files import write_records, write_rows
from sawyer.data.records import user
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.evals import best_of_n as arithmetic
from tests.apps.conftest import leftovers, stopping_after


@pytest.fixture
def command(command):
    return partial(command, "eval", "best-of-n")


@pytest.fixture
def samples():
    """Twelve prompts with four samples of some words, and one with two."""
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": [user(f"Question {i}?")], "samples": [{"text": "ice " * int(n)} for n in rng.integers(1, 9, 4)]}
        for i in range(12)
    ]
    write_rows("samples.jsonl", [*rows, {"prompt": [user("Few?")], "samples": [{"text": "one"}, {"text": "two"}]}])


def test_a_curve_from_samples(command, samples):
    code, out, err = command("--samples", "samples.jsonl", "--by", "length", "--gold", "reading_grade", "--n", 4,
                             "--out", "c.json", "--page", "c.html")  # fmt: skip
    assert code == 0, err
    assert "1 prompts of samples.jsonl have fewer than 4 samples and are left out" in err
    assert "The best of 4 by length gains +" in out
    result = json.loads(Path("c.json").read_text())
    assert [point["n"] for point in result["points"]] == [1, 2, 4]
    assert [point["kl"] for point in result["points"]] == [arithmetic.kl(n) for n in (1, 2, 4)]
    means = [point["rewards"]["length"]["mean"] for point in result["points"]]
    assert means == sorted(means)
    assert result["points"][2]["gains"]["length"]["low"] > 0
    rows = [json.loads(line) for line in Path("c.rows.jsonl").read_text().splitlines()]
    assert means[2] == pytest.approx(np.mean([max(row["length"]) for row in rows]))
    assert Path("c.html").read_text().count("<svg") == 2
    assert not leftovers()


def interrupted(*args, **options):
    raise KeyboardInterrupt


def test_a_model_is_sampled_once_for_every_n_and_goes_on_after_a_kill(command, saved_policy, monkeypatch, capsys):
    model = saved_policy("llama")
    write_records("prompts.jsonl", make_prompts(3, "test"))
    capsys.readouterr()
    arguments = ("--model", model, "--prompts", "prompts.jsonl", "--by", "length", "--gold", "verifiable", "--n", 3)
    arguments += ("--max-tokens", 5, "--out", "c.json", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(
            "sawyer.apps.answering.measure_all", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert command(*arguments)[0] == 130
    made = stopping_after(0, monkeypatch)
    code, out, err = command(*arguments)
    assert code == 0, err
    assert made == [], "the samples were kept"
    result = json.loads(out)
    assert (result["prompts"], result["samples"], result["own_distribution"]) == (3, 3, True)
    assert [point["n"] for point in result["points"]] == [1, 2, 3]
    assert result["peak"].keys() == {"gold"}
    assert not leftovers()


def test_an_over_optimised_reward_is_seen():
    """Gold rises with the proxy up to a point and falls behind it."""
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(200, 16))
    gold = -((proxy - 0.7) ** 2)
    found = work.curve({"proxy": proxy.tolist(), "gold": gold.tolist()}, "proxy", 0.95)
    assert found["peak"]["gold"] in (2, 4)
    last = found["points"][-1]["gains"]["gold"]
    assert last["high"] < found["points"][1]["gains"]["gold"]["mean"]


def test_what_cannot_be_asked_is_refused(samples):
    for asked, why in (
        ({"n": 1}, "--n is 1; the best of fewer than two is no choice"),
        ({"samples": None}, "give either --model with --prompts, or --samples"),
        ({"prompts": "p"}, "--samples has its own prompts"),
        ({"n": 9}, "no prompt of samples.jsonl has 9 samples"),
        ({"samples": Path("bad.jsonl")}, "row 1 of bad.jsonl has no `prompt` and `samples`"),
        ({"model": "smollm2", "samples": None}, "--model needs --prompts"),
        ({"proxy": "judge:m@http://x/v1"}, "judges pairs of answers, and best-of-n needs a number for each"),
        ({"out": Path("c.txt")}, "must end with .json"),
    ):
        write_rows("bad.jsonl", [{"text": "no"}])
        given = {"proxy": "length", "samples": Path("samples.jsonl"), "n": 4} | asked
        with pytest.raises(SawyerError, match=why):
            work.evaluate(work.Request(**given))
