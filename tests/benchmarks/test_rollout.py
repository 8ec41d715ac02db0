"""The generation benchmark on a tiny model."""

import json

import pytest

from benchmarks import generators, rollout


@pytest.mark.slow
def test_the_command_writes_its_figures(saved_policy, tmp_path, monkeypatch):
    monkeypatch.setitem(
        rollout.SETTINGS, "natural", {"prompts": 2, "n": 3, "temperature": 1.0, "min_tokens": 0, "max_tokens": 20}
    )
    monkeypatch.setitem(rollout.ALONE, "queue", {**rollout.ALONE["queue"], "prompts": 5, "few": 2})
    file = tmp_path / "figures.json"
    model = saved_policy("llama")
    options = [
        "--model",
        model,
        "--settings",
        "natural,refresh,queue",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--precision",
        "fp32",
    ]
    assert rollout.main([*options, "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["same"]
    assert written["natural"].keys() >= {"speed_ratio", "peak_share", "memory_over_needed", "tokens_per_second"}
    assert written["refresh"]["seconds"] > 0
    assert written["queue"]["ratio"] > 0
    assert written["natural"]["fastest_peer"] in ("hf-bf16", "hf-fp32")


def test_mistakes_are_one_sentence(capsys, monkeypatch):
    assert rollout.main(["--settings", "fast"]) == 2
    assert "there is no setting 'fast'" in capsys.readouterr().err
    assert rollout.main(["--peer", "other"]) == 2
    monkeypatch.setattr(generators.importlib.util, "find_spec", lambda name: None)
    assert rollout.main(["--peer", "ctranslate2"]) == 2
    assert "CTranslate2 is not installed" in capsys.readouterr().err


def test_flops_by_hand(tiny_policy):
    model = tiny_policy("llama")
    body = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    head = model.config.vocab_size * model.config.hidden_size
    # prompts of 3 and 2 tokens, two samples each, of 4, 1, 2 and 2 tokens
    assert generators.flops(model, [[1, 2, 3], [1, 2]], [[0] * 4, [0], [0] * 2, [0] * 2], 2) == 2 * (
        body * (5 + 9 - 4) + head * 9
    )
