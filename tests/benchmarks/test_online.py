"""The benchmark of online preference optimisation on a tiny model, and its bookkeeping on made-up times."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("trl")

from benchmarks import learners, measure, online, sameness, work
from sawyer.errors import SawyerError

TOKENS, BATCH = 5, 4


@pytest.fixture
def job(saved_policy, tmp_path):
    """With the models of both sides written."""
    job = {
        "task": "online", "model": saved_policy("llama"), "folder": str(tmp_path), "precision": "fp32", "batch": BATCH,
        "micro_batch": BATCH, "cache": None, "tokens": TOKENS, "reward": "rule", "answers": None, "max_length": 220,
        "token_budget": 4096, "learning_rate": 5e-7, "seed": 0, "threads": 1, "profile": False,
    }  # fmt: skip
    for reward in ("rule", "model"):
        learners.run({**job, "contender": "weights", "reward": reward}, [])
    return job


@pytest.fixture
def rows(tiny_tokenizer):
    return work.prompts(None, 2 * BATCH, tiny_tokenizer, 200)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_both_sides_do_the_same_with_the_same_answers(micro_batch, job, rows, tmp_path):
    job = {**job, "micro_batch": micro_batch}
    ours = learners.run({**job, "contender": "sawyer"}, rows)
    assert all(len(ids) == TOKENS for update in ours["answers"] for own in update for ids in own)
    assert ours["pairs"] == [BATCH, BATCH]
    job["answers"] = str(tmp_path / "answers.json")
    (tmp_path / "answers.json").write_text(json.dumps(ours["answers"]))
    given = {
        "sawyer": learners.run({**job, "contender": "sawyer"}, rows),
        f"trl-{micro_batch}": learners.run({**job, "contender": "trl"}, rows),
    }
    verdict = sameness.check("online", "fp32", given, {})
    assert verdict["same"], verdict
    assert given["sawyer"]["losses"] == ours["losses"]
    theirs = given[f"trl-{micro_batch}"]
    assert theirs["answers"] == ours["answers"]
    assert all(len(theirs[key]) == 2 for key in ("step_seconds", "generate_seconds", "losses", "grad_norms"))


@pytest.mark.parametrize("cache", [None, "static"])
def test_the_peer_draws_answers_of_so_many_tokens(cache, job, rows):
    done = learners.run({**job, "contender": "trl", "micro_batch": 2, "cache": cache}, rows)
    assert [len(update) for update in done["answers"]] == [BATCH, BATCH]
    assert all(len(ids) == TOKENS for update in done["answers"] for own in update for ids in own)
    assert all(0 < drawn < whole for drawn, whole in zip(done["generate_seconds"], done["step_seconds"], strict=True))


@pytest.mark.parametrize("contender", ["sawyer", "trl"])
def test_a_reward_model_may_score(contender, job, rows):
    done = learners.run({**job, "contender": contender, "reward": "model"}, rows)
    assert done["pairs"] == [BATCH, BATCH]


def test_prompts_are_the_first_that_fit(tiny_tokenizer, tmp_path, capsys):
    said = [
        {side: f"\n\nHuman: {'What? ' * n}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for n in (1, 40, 2)
    ]
    file = tmp_path / "hh.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in said))
    rows = work.prompts(file, 2, tiny_tokenizer, 90)
    assert [row["prompt"][-1]["content"].count("What") for row in rows] == [1, 2]
    with pytest.raises(SawyerError, match="has only 2 prompts of at most 90 tokens"):
        work.prompts(file, 3, tiny_tokenizer, 90)


@pytest.fixture
def made_up(monkeypatch, saved_policy):
    """Contenders of known speed; `seconds` may be changed, and `jobs` has what was asked of them."""

    made_up = SimpleNamespace(
        seconds={"sawyer": 2.0, "trl-2": 6.0, "trl-2-static": 9.0, "trl-4": 8.0, "trl-4-static": 7.0},
        drawn={"sawyer": [[[[1, 2], [1, 3]]] * 4] * 3},
        norms={"sawyer": 1.0},
        jobs=[],
    )

    def answer(job):
        made_up.jobs.append(job)
        name = "-".join(str(part) for part in (job["contender"], job["micro_batch"], job.get("cache")) if part)
        return {
            "step_seconds": [99.0, *[made_up.seconds.get(name, 1.0)] * 2],
            "generate_seconds": [9.0, 1.0, 1.0],
            "answers": made_up.drawn.get(name, made_up.drawn["sawyer"]),
            "values": [[-1.0, -2.0]] * 4,
            "losses": [0.7] * 2,
            "grad_norms": [made_up.norms.get(name, 1.0)] * 2,
            "pairs": [4] * (2 if job.get("answers") else 3),
            "peak_memory_mib": 100 if name == "sawyer" else 400,
        }

    monkeypatch.setattr(measure, "in_own_process", answer)
    made_up.options = ["--model", saved_policy("llama"), "--batch", "4", "--tokens", "2", "--micro-batches", "2,4",
                      "--max-length", "220", "--threads", "1"]  # fmt: skip
    return made_up


def test_ratios_are_against_the_fastest_and_the_whole_batch(made_up, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert online.main([*made_up.options, "--caches", "dynamic,static", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["fastest_peer"] == "trl-2"
    assert written["speed_ratio"] == 3.0
    assert written["same_batch_ratio"] == 3.5  # the better cache
    assert written["memory_ratio"] == written["memory_ratio_fastest"] == 0.25
    assert written["sameness"]["comparisons"].keys() == {"sawyer = trl-2", "sawyer = trl-4"}
    assert written.keys() >= {"command", "versions", "hardware", "precision", "tokens", "reward", "contenders"}
    assert "3.00 times as fast as TRL at its fastest (trl-2)" in capsys.readouterr().out
    assert sum(job["answers"] is None for job in made_up.jobs) == 1 + 2 * 5  # the weights, and two rounds


def test_sides_that_differ_are_not_timed(made_up, tmp_path, capsys):
    made_up.norms = {"sawyer": 1.5}
    file = tmp_path / "figures.json"
    assert online.main([*made_up.options, "--json", str(file)]) == 1
    assert "do not compute the same thing" in capsys.readouterr().err
    written = json.loads(file.read_text())
    assert written["speed_ratio"] is written["same_batch_ratio"] is None


def test_in_bf16_each_side_is_held_against_its_own_fp32(made_up):
    assert online.main([*made_up.options, "--precision", "bf16", "--rounds", "1"]) == 0
    exact = [job for job in made_up.jobs if job["precision"] == "fp32"]
    assert [(job["contender"], job["micro_batch"]) for job in exact] == [("sawyer", None), ("trl", 2)]


def test_answers_of_another_length_are_a_fault(made_up):
    made_up.drawn = {**made_up.drawn, "trl-2": [[[[1], [1, 3]]] * 4] * 3}
    with pytest.raises(RuntimeError, match=r"answers of \[1, 2\] tokens"):
        online.main(made_up.options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--peer", "other"], "there is no peer called 'other'"),
        (["--micro-batches", "3"], "must divide --batch, which is 16"),
        (["--micro-batches", "x"], "takes numbers such as"),
        (["--caches", "paged"], "--caches takes dynamic or static"),
        (["--rounds", "0"], "must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(wrong, message, capsys):
    assert online.main(wrong) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_its_figures(saved_policy, tmp_path, here):
    here()
    file = tmp_path / "figures.json"
    sizes = ["--batch", "2", "--tokens", "4", "--micro-batches", "2", "--updates", "1", "--rounds", "1",
             "--max-length", "220", "--threads", "1"]  # fmt: skip
    assert online.main(["--model", saved_policy("llama"), *sizes, "--profile", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["sameness"]["same"]
    assert written["speed_ratio"] > 0
    assert written["contenders"]["sawyer"]["peak_memory_mib"] > 100
