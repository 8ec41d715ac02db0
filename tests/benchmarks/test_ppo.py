"""The PPO benchmark on a tiny model: both sides compute the same thing; its bookkeeping on made-up times."""

import json
import sys

import pytest

from benchmarks import measure, peer_environment, ppo, ppo_ours, ppo_transformers, sameness
from sawyer.errors import SawyerError

SIZES = ["--prompts", "4", "--prompt-tokens", "16", "--tokens", "12", "--threads", "1", "--updates", "1"]


@pytest.fixture
def job(saved_policy, tmp_path):
    """Two steps on given answers, in this process."""

    def make(*options):
        arguments = ["--model", saved_policy("llama"), *SIZES, *options]
        chosen = ppo.options().parse_args(arguments)
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        job = {**ppo._models(chosen, folder), **ppo._prompts(chosen, folder)}
        return {**job, "given": True, "updates": 1, "epochs": ppo.GIVEN_EPOCHS}, json.loads(open(job["rows"]).read())

    return make


@pytest.mark.parametrize("n", [1, 3])
def test_both_sides_compute_the_same_thing(n, job):
    made, rows = job("--n", str(n))
    ours = ppo_ours.run({**made, "token_budget": 60}, rows)
    assert len(ours["values"]) == 4 * n
    assert len(ours["losses"]) == len(ours["grad_norms"]) == ppo.GIVEN_EPOCHS
    for size in (1, 4 * n):
        theirs = ppo_transformers.run({**made, "micro_batch": size}, rows)
        compared = sameness.compare("ppo", ours, theirs, "fp32")
        assert compared["same"], compared
        assert compared["updates"] == ppo.GIVEN_EPOCHS
    theirs["values"][0][0] += 0.01
    assert not sameness.compare("ppo", ours, theirs, "fp32")["same"]


def test_in_bf16_both_sides_are_near(job):
    made, rows = job("--precision", "bf16")
    ours, theirs = ppo_ours.run(made, rows), ppo_transformers.run({**made, "micro_batch": 4}, rows)
    assert sameness.compare("ppo", ours, theirs, "bf16")["same"]
    assert ours["values"] != theirs["values"]


def test_the_reference_is_another_model_so_that_the_kl_counts(job):
    made, rows = job()
    held, free = (ppo_ours.run({**made, "kl": kl}, rows)["values"] for kl in (0.5, 0.0))
    assert held[0] != pytest.approx(free[0], abs=1e-3)


@pytest.mark.parametrize("side", [ppo_ours, ppo_transformers])
def test_every_answer_has_the_tokens_that_were_asked_for(side, job):
    made, rows = job("--n", "2")
    done = side.run({**made, "given": False, "updates": 3, "epochs": 1, "micro_batch": 4}, rows)
    assert done["response_tokens"] == [4 * 2 * 12] * 3
    assert len(done["update_seconds"]) == len(done["rollout_seconds"]) == 3
    assert all(0 < part < whole for part, whole in zip(done["rollout_seconds"], done["update_seconds"], strict=True))
    assert "values" not in done


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Contenders of known speed, of which the environment has TRL's."""
    seconds = {"sawyer": 2.0, "trl-1": 9.0, "trl-4": 6.0, "trl-4-pure": 5.0, "transformers-4": 4.0}
    asked = []
    advantage = {"sawyer": 1.0, "trl": 1.0, "transformers": 1.0}

    def answer(job):
        name = "-".join(
            str(part) for part in (job["contender"], job["micro_batch"], "pure" if job["pure"] else None) if part
        )
        asked.append((name, job["given"], job["precision"], job["python"]))
        once = seconds.get(name, 99.0)
        return {
            "update_seconds": [50.0] + [once] * (job["updates"] - 1),
            "rollout_seconds": [1.0] * job["updates"],
            "response_tokens": [4 * job["n"] * job["tokens"]] * job["updates"],
            "peak_memory_mib": 100.0 if name == "sawyer" else 400.0,
            "values": [[advantage[job["contender"]], 0.5]],
            "losses": [0.1, 0.1],
            "grad_norms": [1.0, 1.0],
        }

    monkeypatch.setattr(measure, "in_own_process", answer)
    monkeypatch.setattr(ppo, "_models", lambda chosen, folder: {})
    monkeypatch.setattr(peer_environment, "missing", lambda folder: None)
    return asked, advantage, seconds


def written(tmp_path, saved_policy, *options):
    file = tmp_path / "figures.json"
    code = ppo.main(["--model", saved_policy("llama"), *SIZES, "--json", str(file), *options])
    return code, json.loads(file.read_text())


def test_trl_counts_at_its_fastest_and_runs_in_its_own_environment(made_up, saved_policy, tmp_path):
    asked, _, _ = made_up
    options = ["--micro-batches", "1,2,4", "--rounds", "2", "--peer-environment", str(tmp_path)]
    code, figures = written(tmp_path, saved_policy, *options)
    assert code == 0
    assert (figures["fastest_peer"], figures["peer"]) == ("trl-4", "trl")
    assert (figures["speed_ratio"], figures["memory_ratio"]) == (3.0, 0.25)
    assert figures["tried_once"].keys() == {"sawyer", "trl-1", "trl-2", "trl-4"}
    assert figures["contenders"]["sawyer"]["update_seconds_by_round"] == [[2.0], [2.0]]
    assert figures["versions"]["trl"] == peer_environment.TRL
    assert figures.keys() >= {"command", "hardware", "precision", "sameness", "prompt_tokens"}
    assert {python for name, _, _, python in asked if name.startswith("trl")} == {
        str(peer_environment.interpreter(tmp_path))
    }
    assert {python for name, _, _, python in asked if name == "sawyer"} == {sys.executable}
    assert [name for name, given, *_ in asked if given] == ["sawyer", "trl-4"]


def test_in_bf16_weights_of_bf16_are_tried_too_and_held_against_fp32(made_up, saved_policy, tmp_path):
    asked, _, _ = made_up
    code, figures = written(tmp_path, saved_policy, "--precision", "bf16", "--micro-batches", "4", "--rounds", "1")
    assert code == 0
    assert figures["fastest_peer"] == "trl-4-pure"
    assert figures["speed_ratio"] == 2.5
    assert [(name, precision) for name, given, precision, _ in asked if given] == [
        ("sawyer", "bf16"), ("trl-4-pure", "bf16"), ("sawyer", "fp32"), ("trl-4", "fp32")
    ]  # fmt: skip


def test_sides_that_differ_are_not_timed(made_up, saved_policy, tmp_path, capsys):
    made_up[1]["trl"] = 1.5
    code, figures = written(tmp_path, saved_policy, "--micro-batches", "4")
    assert code == 1
    assert figures["speed_ratio"] is figures["memory_ratio"] is None
    assert figures["contenders"] == {}
    assert "do not compute the same thing" in capsys.readouterr().err


def test_without_the_environment_the_peer_is_transformers_and_that_is_said(
    made_up, saved_policy, tmp_path, capsys, monkeypatch
):
    monkeypatch.undo()
    code = ppo.main(["--peer-environment", str(tmp_path / "none"), "--tokens", "1"])
    assert code == 2
    assert ppo._peer(ppo.options().parse_args(["--peer-environment", str(tmp_path / "none")])) == (
        "transformers",
        sys.executable,
    )
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"TRL 1.12.0, the newest with a PPO trainer, is not in {tmp_path / 'none'}; ")
    assert "python -m benchmarks.ppo --install" in said
    assert said.endswith("comparing with a plain transformers loop instead.")


def test_mistakes_are_one_sentence(capsys):
    mistakes = [
        ["--peer", "verl"], ["--micro-batches", "1,a"], ["--micro-batches", "3"], ["--rounds", "0"], ["--tokens", "1"],
        ["--prompts", "1"], ["--n", "0"],
    ]  # fmt: skip
    for mistake in mistakes:
        assert ppo.main(mistake) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_environment_is_installed_with_pinned_versions_and_pytorch_first(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(peer_environment, "_run", lambda command: commands.append([str(part) for part in command]))
    monkeypatch.setattr(peer_environment, "version", lambda folder: peer_environment.TRL)
    peer_environment.install(tmp_path / "new")
    (make, torch, rest) = commands
    assert make[1:] == ["-m", "venv", str(tmp_path / "new")]
    assert torch[-1].startswith("torch==")
    assert f"trl=={peer_environment.TRL}" in rest
    assert torch[-1] in rest
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("")
    with pytest.raises(SawyerError, match="is no virtual environment"):
        peer_environment.install(tmp_path / "other")


def test_an_environment_of_another_version_or_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_environment, "version", lambda folder: "1.16.0")
    assert "has TRL 1.16.0 and not 1.12.0" in str(peer_environment.missing(tmp_path))
    monkeypatch.setattr(peer_environment, "version", lambda folder: None)
    monkeypatch.setattr(peer_environment, "_run", lambda command: None)
    with pytest.raises(SawyerError, match=r"the installation ended, but TRL 1\.12\.0"):
        peer_environment.install(tmp_path / "new")
    monkeypatch.undo()
    with pytest.raises(SawyerError, match="failed: "):
        peer_environment._run([sys.executable, "-c", "raise SystemExit('no')"])


@pytest.mark.slow
def test_the_command_measures_against_the_plain_loop(saved_policy, tmp_path, capsys, here):
    apart = here(lambda job: job["contender"] == "sawyer" and job["given"])
    options = ["--peer", "transformers", "--micro-batches", "2,4", "--rounds", "1"]
    code, figures = written(tmp_path, saved_policy, *options)
    assert code == 0
    assert len(apart) == 1
    assert figures["peer"] == "transformers"
    assert figures["speed_ratio"] > 0
    assert figures["contenders"]["sawyer"]["peak_memory_mib"] > 100
    assert "times as fast as transformers-" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(
    peer_environment.missing(peer_environment.place(None)) is not None, reason="TRL 1.12.0 is not installed"
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trl_computes_the_same_thing(precision, job):
    made, rows = job("--precision", precision)
    python = str(peer_environment.interpreter(peer_environment.place(None)))
    ours = ppo_ours.run(made, rows)
    for size in (1, 4):
        who = {"contender": "trl", "micro_batch": size, "pure": False, "python": python}
        theirs = measure.in_own_process({**made, **who})
        compared = sameness.compare("ppo", ours, theirs, precision)
        assert compared["same"], compared
