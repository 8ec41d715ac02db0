"""`sawyer generate --best-of`: the candidate that a reward model, or the gold reward, scores highest."""

import pytest

from sawyer.data.files import write_records
from sawyer.data.records import Prompt
from sawyer.data.verifiable import make_prompts
from sawyer.feedback.reward_model import RewardModel
from sawyer.feedback.rules import VerifiableReward
from sawyer.models.load import load_bi_encoder, load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from tests.apps.conftest import leftovers, rows, stopping_after
from tests.rollout.chat_server import completion


@pytest.fixture
def reward(saved_policy, tmp_path, capsys):
    source = saved_policy("llama", 3)
    model, tokenizer = load_sequence_classifier(source, fresh_head=True, seed=1), load_tokenizer(source)
    folder = str(save_model(model, tokenizer, tmp_path / "reward"))
    capsys.readouterr()
    return folder


def test_each_completion_is_the_best_of_its_candidates(local, reward):
    assert local("--n", 6, out="all.jsonl")[0] == 0
    code, out, err = local("--n", 2, "--best-of", 3, "--by", reward)
    assert code == 0, err
    assert out.startswith("6 completions of 3 prompts in ")
    judge = RewardModel(reward)
    for row, drawn in zip(rows(), rows("all.jsonl"), strict=True):
        candidates = drawn["samples"]
        (scores,) = judge.score([Prompt(tuple(row["prompt"]))], [[c["text"] for c in candidates]])
        best = [max(range(at, at + 3), key=scores.__getitem__) for at in (0, 3)]
        assert [sample["ids"] for sample in row["samples"]] == [candidates[k]["ids"] for k in best]
    assert not leftovers()


def test_encoders_choose_too(local, saved_encoder, encoder_tokenizer, tmp_path, capsys):
    model = load_bi_encoder(saved_encoder("roberta"), fresh_heads=True, seed=1)
    folder = str(save_model(model, encoder_tokenizer("roberta"), tmp_path / "bi"))
    capsys.readouterr()
    assert local("--n", 3, out="all.jsonl")[0] == 0
    code, _, err = local("--best-of", 3, "--by", folder)
    assert code == 0, err
    for row, drawn in zip(rows(), rows("all.jsonl"), strict=True):
        texts = [sample["text"] for sample in drawn["samples"]]
        (scores,) = RewardModel(folder).score([Prompt(tuple(row["prompt"]))], [texts])
        assert row["samples"][0]["text"] == texts[max(range(3), key=scores.__getitem__)]


@pytest.mark.parametrize(("candidates", "calls"), [(2, 1), (3, 3)])
def test_an_interrupted_choice_continues_and_another_one_begins_anew(local, reward, monkeypatch, candidates, calls):
    options = ("--n", 4, "--batch", 1, "--by", reward)  # a chunk is one prompt
    with monkeypatch.context() as patch:
        stopping_after(2, patch)
        assert local("--best-of", 2, *options)[0] == 130
    made = stopping_after(99, monkeypatch)
    assert local("--best-of", candidates, *options)[0] == 0
    assert len(made) == calls
    assert local("--best-of", candidates, *options, out="whole.jsonl")[0] == 0
    assert rows() == rows("whole.jsonl")


def test_a_model_that_does_not_score_is_refused(local, saved_policy, capsys):
    policy = saved_policy("llama", 1)
    capsys.readouterr()
    code, out, err = local("--best-of", 2, "--by", policy)
    assert (code, out) == (2, "")
    assert "is no reward model, for its config.json names no sequence classifier; give one" in err
    assert err.count("\n") == 1
    assert not leftovers()


def test_the_gold_reward_chooses_for_prompts_that_carry_their_constraints(remote, serve):
    prompts = make_prompts(3, "test")
    write_records("p.jsonl", prompts)
    seen = []

    def answer(request):
        seen.append(request)
        words = ["Glaciers", "move", "slowly", "and", "light", "falls", "on", "them", "each", "cold", "day"]
        return completion(" ".join(words[: 1 + request["seed"] % len(words)]) + ".")

    code, _, err = remote(serve(answer), "--n", 2, "--best-of", 4, "--by", "verifiable", prompts="p.jsonl")
    assert code == 0, err
    assert len(seen) == 3 * 2 * 4
    assert remote(serve(answer), "--n", 8, prompts="p.jsonl", out="all.jsonl")[0] == 0
    for prompt, row, drawn in zip(prompts, rows(), rows("all.jsonl"), strict=True):
        texts = [sample["text"] for sample in drawn["samples"]]
        (scores,) = VerifiableReward().score([prompt], [texts])
        best = [max(range(at, at + 4), key=scores.__getitem__) for at in (0, 4)]
        assert [sample["text"] for sample in row["samples"]] == [texts[k] for k in best]
