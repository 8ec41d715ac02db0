"""The generation benchmark on a tiny model, and its bookkeeping on made-up times."""

import importlib.util
import json
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as everything
from benchmarks import generators, measure, online, ppo, rollout, scoring
from sawyer.rollout.cohorts import Limits

with_ctranslate2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason="CTranslate2 is not installed: pip install -e '.[bench]'"
)
SMALL = {"prompts": 2, "n": 3, "temperature": 1.0, "min_tokens": 0, "max_tokens": 20}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "alone"), [("hf", ["refresh", "queue"]), pytest.param("ctranslate2", [], marks=with_ctranslate2)]
)
def test_the_command_writes_its_figures(peer, alone, saved_policy, tmp_path, monkeypatch, capsys, here):
    apart = here(lambda job: job["contender"] == "sawyer" and job["temperature"] and "alone" not in job)
    monkeypatch.setattr(rollout, "BATCHES", (16,))
    monkeypatch.setitem(rollout.SETTINGS, "natural", SMALL)
    monkeypatch.setitem(rollout.ALONE, "queue", {**rollout.ALONE["queue"], "prompts": 5, "few": 2})
    file = tmp_path / "figures.json"
    options = ["--peer", peer, "--model", saved_policy("llama"), "--rounds", "1"]
    options += ["--settings", ",".join(["natural", *alone])]
    assert rollout.main([*options, "--threads", "1", "--precision", "fp32", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert list(written) == ["natural", *alone]
    assert len(apart) == 1  # whose memory is its own
    assert all(figures["run"]["same"] and peer in figures["run"]["command"] for figures in written.values())
    natural = written["natural"]
    assert natural["speed_ratio"] > 0
    assert natural["peak_share"] > 0
    assert natural["memory_over_needed"] > 0
    assert natural["fastest_peer"].startswith(peer)
    assert "times the memory of weights and cache" in capsys.readouterr().out
    for name, own in zip(alone, ("seconds", "ratio"), strict=False):
        assert written[name][own] > 0
        assert written[name]["speed_ratio"] is written[name]["peak_share"] is None


@with_ctranslate2
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_ctranslate2_generates(kind, saved_policy, tmp_path):
    job = {
        "contender": "ctranslate2", "precision": kind, "model": saved_policy("llama"), "n": 2, "temperature": 0.0,
        "min_tokens": 5, "max_tokens": 5, "repeats": 1, "layout": (1, 1), "sequences": 2, "seed": 0,
        "converted": str(tmp_path),
    }  # fmt: skip
    done = generators.run(job, [[5, 6, 7], [8, 9]])
    assert done["tokens"] == [20]
    if kind == "fp32":
        assert done["completions"][::2] == done["completions"][1::2]
        theirs = generators.run({**job, "contender": "hf", "n": 1}, [[5, 6, 7], [8, 9]])
        assert done["completions"][::2] == theirs["completions"]


@pytest.fixture
def made_up(monkeypatch):
    """Contenders of known speed; `made_up.speed` may be changed, and `made_up.jobs` has what was asked of them."""

    made_up = SimpleNamespace(
        speed={"sawyer-bf16": 200.0, "hf-bf16": 50.0, "hf-fp32": 80.0}, completions={"ctranslate2": [[1, 2]]}, jobs=[]
    )

    def answer(job):
        made_up.jobs.append(job)
        if job["contender"] == "peak":
            return {"flops_per_second": 1e9}
        if "alone" in job:
            return {"seconds": 0.5}
        name = f"{job['contender']}-{job['precision']}"
        if job["contender"] == "ctranslate2":
            name += f"-{job['layout'][0]}x{job['layout'][1]}-{job['sequences']}"
        return {
            "seconds": [100 / made_up.speed.get(name, 10.0)], "tokens": [100], "flops": 1e8, "memory_bytes": 130,
            "needed_bytes": 100, "tokenizer_bytes": 20,
            "completions": made_up.completions.get(job["contender"], [[1, 2]]),
        }  # fmt: skip

    monkeypatch.setattr(measure, "in_own_process", answer)
    monkeypatch.setattr(rollout, "verifiable_prompts", lambda model, count: [[1]] * count)
    monkeypatch.setattr(generators, "require", lambda peer: None)
    monkeypatch.setattr(generators, "compute_types", lambda: ["int8", "bfloat16"])
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1")
    return made_up


def written(tmp_path, *options):
    file = tmp_path / "figures.json"
    return rollout.main([*options, "--threads", "2", "--json", str(file)]), json.loads(file.read_text())


def test_every_key_of_the_file_is_a_setting_with_its_ratios(made_up, tmp_path, capsys):
    code, figures = written(tmp_path)
    assert code == 0
    assert figures.keys() == {"fixed", "natural", "greedy"}
    for own in figures.values():
        assert own["speed_ratio"] == 2.5  # over the faster precision
        assert own["peak_share"] == pytest.approx(0.2)
        assert own["run"].keys() >= {"command", "precision", "peer", "same", "versions", "hardware"}
    assert "1.30 times the memory of weights and cache, which is MORE than the 1.2" in capsys.readouterr().out


def test_the_fastest_way_of_ctranslate2_counts(made_up, tmp_path):
    made_up.speed |= {"ctranslate2-bfloat16-1x2-64": 20.0, "ctranslate2-bfloat16-2x1-16": 160.0}
    _, figures = written(tmp_path, "--peer", "ctranslate2", "--settings", "fixed,greedy", "--rounds", "1")
    fixed = figures["fixed"]
    assert fixed["fastest_peer"] == "ctranslate2-bfloat16-2x1-16"
    assert fixed["speed_ratio"] == pytest.approx(200 / 160)
    others = {f"ctranslate2-bfloat16-{layout}-{batch}" for layout in ("1x2", "2x1") for batch in (16, 32, 64)}
    assert fixed["tried_once"].keys() == {"ctranslate2-int8-1x2-64", *others}
    assert set(figures["greedy"]["tried_once"]) == {"ctranslate2-int8-1x2-1", "ctranslate2-bfloat16-1x2-1"}


@pytest.mark.parametrize("differing", ["hf", "ctranslate2"])
def test_sides_that_differ_are_not_timed(made_up, tmp_path, differing, capsys):
    made_up.completions = {differing: [[1, 3]]}
    code, figures = written(tmp_path, "--peer", "ctranslate2", "--settings", "fixed,refresh")
    assert code == 1
    assert figures.keys() == {"fixed", "refresh"}
    assert all(own["speed_ratio"] is own["peak_share"] is None for own in figures.values())
    assert not any(own["run"]["same"] for own in figures.values())
    assert len(made_up.jobs) == 3
    assert "do not write the same greedy tokens" in capsys.readouterr().err


def test_natural_has_real_prompts(made_up, saved_policy, tmp_path, monkeypatch):
    rows = [
        {side: f"\n\nHuman: Question {i}?\n\nAssistant: {side} {i}" for side in ("chosen", "rejected")}
        for i in range(20)
    ]
    data = tmp_path / "hh.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = saved_policy("llama")
    prompts = rollout.real_prompts(model, 16, data)
    assert len(prompts) == 16
    seen = {}
    answer = measure.in_own_process

    def remember(job):
        with open(job["rows"]) as file:
            seen.setdefault(job["max_tokens"], json.load(file)[: job["limit"]])
        return answer(job)

    monkeypatch.setattr(measure, "in_own_process", remember)
    _, figures = written(tmp_path, "--settings", "natural,fixed", "--data", str(data), "--model", model)
    assert seen[rollout.SETTINGS["natural"]["max_tokens"]] == prompts
    assert seen[rollout.SETTINGS["fixed"]["max_tokens"]] == [[1]] * 8
    assert figures["natural"]["run"]["data"] == "hh.jsonl"
    assert rollout.main(["--data", str(tmp_path / "missing.jsonl"), "--model", model]) == 2


def test_mistakes_are_one_sentence(capsys, monkeypatch):
    assert rollout.main(["--settings", "fast"]) == 2
    assert "there is no setting 'fast'" in capsys.readouterr().err
    assert rollout.main(["--peer", "other"]) == 2
    monkeypatch.setattr(generators.importlib.util, "find_spec", lambda name: None)
    assert rollout.main(["--peer", "ctranslate2"]) == 2
    assert "there is no CTranslate2 to measure against; in Sawyer's folder, pip install" in capsys.readouterr().err


def test_flops_by_hand(tiny_policy):
    model = tiny_policy("llama")
    body = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    head = model.config.vocab_size * model.config.hidden_size
    # prompts of 3 and 2 tokens, two samples each, of 4, 1, 2 and 2 tokens
    assert generators.flops(model, [[1, 2, 3], [1, 2]], [[0] * 4, [0], [0] * 2, [0] * 2], 2) == 2 * (
        body * (5 + 9 - 4) + head * 9
    )


def test_needed_memory_is_of_what_runs_at_a_time(tiny_policy):
    model = tiny_policy("llama")
    weights = sum(p.numel() * 4 for p in model.parameters())
    a_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, their size, bytes
    prompts, job = [[1] * 6, [1] * 4, [1] * 4], {"n": 2, "max_tokens": 10}
    for limits, tokens in (
        (Limits(64, 1000), 2 * (16 + 14 + 14)),
        (Limits(3, 1000), 16 + 16 + 14),
        (Limits(64, 33), 32),
    ):
        assert generators.needed_bytes(model, prompts, job, limits) == weights + a_token * tokens


def test_all_benchmarks_are_run(monkeypatch):
    ran = []
    monkeypatch.setattr(everything, "main", lambda task, arguments: ran.append((task, arguments)) or 0)
    monkeypatch.setattr(rollout, "main", lambda arguments: ran.append(("rollout", arguments)) or 1)
    monkeypatch.setattr(online, "main", lambda arguments: ran.append(("online", arguments)) or 0)
    monkeypatch.setattr(ppo, "main", lambda arguments: ran.append(("ppo", arguments)) or 0)
    monkeypatch.setattr(scoring, "main", lambda arguments: ran.append(("scoring", arguments)) or 0)
    assert everything.run_all(["--pairs", "64", "--rounds", "1", "--data", "hh.jsonl"]) == 1
    training = ["dpo", "dpo", "reward", "reward", "sft", "sft", "reward", "reward"]
    others = ["online", "online", "ppo", "ppo", "scoring", "scoring", "rollout", "rollout"]
    assert [task for task, _ in ran] == [*training, *others]
    assert ran[0][1][:2] == ["--pairs", "64"]
    assert ran[7][1][-4:-2] == ["--ranking", "7"]
    files = [arguments[arguments.index("--json") + 1] for _, arguments in ran]
    assert len(set(files)) == len(files)
    assert ran[-1][1][:6] == ["--data", "hh.jsonl", "--rounds", "1", "--peer", "ctranslate2"]
