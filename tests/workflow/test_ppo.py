"""Stage `ppo`: rollouts of the policy as it is, any reward, the right reference, and nothing lost to a kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file

from sawyer.data.files import read_records, write_records
from sawyer.data.records import Prompt, user
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.feedback.reward_model import RewardModel
from sawyer.feedback.rules import VerifiableReward
from sawyer.models.load import load_policy, load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.stages import _ppo, ppo
from sawyer.train import ppo as loop
from sawyer.trees.actor import read_tokens
from sawyer.trees.model import TreePolicy
from tests.lives import dying, places, read_lines, same

ASKED = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light", "word", "day")]
SMALL = {
    "model": "base", "data": "prompts", "reward": "reward", "part": "test", "validation": "test", "steps": 3,
    "batch_size": 3, "n": 3, "sampling": {"max_tokens": 6}, "learning_rate": 1e-2, "validate_every": 2,
    "validation_prompts": 4,
}  # fmt: skip


@pytest.fixture
def run(context, reward):
    """`run(**settings)`: the stage's surroundings and its figures."""

    def call(stage=None, **settings):
        stage = stage or context(ASKED, reward=reward)
        return stage, ppo.run(ppo.Settings(**{**SMALL, **settings}), stage)

    return call


def logged(stage, key="reward"):
    rows = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if key in row]


def said(stage):
    return stage.voice.stream.getvalue()


def test_each_step_is_on_answers_of_the_policy_as_it_is(run, monkeypatch):
    engines = []
    answers = _ppo.Reinforcement.answers

    def watched(self, prompts, n, stream):
        found = answers(self, prompts, n, stream)
        own = {name: p.detach() for name, p in self.trainable.model.named_parameters()}
        held = dict(self.engine._model.named_parameters())
        engines.append(all(torch.equal(held[name], value) for name, value in own.items() if not held[name].is_meta))
        return found

    monkeypatch.setattr(_ppo.Reinforcement, "answers", watched)
    stage, figures = run()
    assert engines == [True] * 6  # three rollouts, three validations
    rows = logged(stage)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert all(row["engine_gap"] < 1e-4 for row in rows)
    assert rows[2]["kl"] != rows[0]["kl"]
    held_out = logged(stage, "validation_reward")
    assert [row["step"] for row in held_out] == [0, 2, 3]
    best = max(held_out, key=lambda row: row["validation_reward"])
    assert (figures["best"], figures["validation_reward"]) == (best["step"], best["validation_reward"])
    assert (stage.folder / "model.safetensors").exists()
    assert "memory: about" in said(stage)


def test_the_artifact_is_the_best_policy_and_samples_are_kept(run, context, reward):
    stage, figures = run(steps=4, validate_every=1, samples=2)
    rows = [json.loads(line) for line in (stage.folder / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    again = load_policy(str(stage.folder)).state_dict()
    kept = load_file(stage.scratch / f"best-{figures['best']}.safetensors")
    assert all(
        torch.equal(again[name.removeprefix("model.")], own) for name, own in kept.items() if "value" not in name
    )
    first = {row["prompt"][0]["content"]: row for row in rows if row["step"] == 0}
    scored = RewardModel(reward).score([Prompt((user(text),)) for text in first], [[r["text"]] for r in first.values()])
    assert [own[0] for own in scored] == pytest.approx([row["reward"] for row in first.values()], abs=1e-4)


CONTINUED = {
    "gae": {"estimator": "gae", "epochs": 2, "mini_batches": 2, "shaping": {"normalise": "running", "clip": 1.0}},
    "lora": {"estimator": "rloo", "lora": {"r": 4}, "kl": {"schedule": "adaptive", "target": 0.5}},
    "own": {"estimator": "gae", "value": {"model": "own"}, "value_from": "reward"},
    "own-lora": {"estimator": "gae", "lora": {"r": 2}, "value": {"model": "own"}},
    "adapters": {"estimator": "gae", "lora": {"r": 2}, "value": {"model": "adapters", "warmup": 1}},
    "group": {"estimator": "grpo", "rewards": [{"model": "reward", "normalise": "running"}], "reward": None},
}


@pytest.mark.parametrize("kind", CONTINUED)
def test_a_killed_training_goes_on_to_the_same_weights(kind, run, tmp_path, monkeypatch):
    given = {**CONTINUED[kind], "steps": 4, "checkpoint_every": 1}
    stage, _ = run(**given)
    second = replace(stage, **places(tmp_path, "second"))
    with dying(monkeypatch, _ppo.Reinforcement, "roll_out", lambda _, step: step == 2):
        run(replace(second), **given)
    run(second, **given)
    same(load_file(second.folder / "model.safetensors"), load_file(stage.folder / "model.safetensors"))
    assert read_lines(second.folder / "metrics.jsonl") == read_lines(stage.folder / "metrics.jsonl")
    assert (stage.folder / "samples.jsonl").read_text() == (second.folder / "samples.jsonl").read_text()


@pytest.mark.parametrize("more", [{}, {"value": {"model": "adapters"}, "lora": {"r": 2}}], ids=str)
def test_in_bfloat16(more, run, context, reward):
    stage, figures = run(replace(context(ASKED, reward=reward), precision="bf16"), **more)
    rows = logged(stage)
    assert abs(rows[0]["kl"]) < 0.1  # rounding
    assert rows[0]["engine_gap"] < 0.1
    assert "another model" not in said(stage)
    assert figures["steps"] == 3
    assert load_policy(str(stage.folder)).dtype == torch.float32


def trial(stage, **settings):
    return _ppo.Reinforcement(ppo.Settings(**{**SMALL, **settings}), stage)


def test_the_reference_of_a_policy_with_adapters_is_not_the_base(context, reward, saved_policy, tmp_path):
    """SFT left an adapter: adapters off must be base + that adapter, merged, and not the base."""
    base = saved_policy("llama", 0)
    torch.manual_seed(3)
    adapted = get_peft_model(
        load_policy(base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    save_model(adapted, load_tokenizer(base), tmp_path / "sft", merge=False)
    stage = context(ASKED, reward=reward, tuned=str(tmp_path / "sft"))
    own = trial(stage, model="tuned", lora={"r": 2}, estimator="rloo")
    assert own.frozen is None  # no second copy of the trunk
    trees = own.roll_out(0).trees
    for p in own.actor.parameters():
        if p.requires_grad:
            p.data.normal_()  # as after training
    off_N = own.reference(trees)
    tuned, bare = (TreePolicy(load_policy(name)) for name in (str(tmp_path / "sft"), base))
    (tuned_N,), (bare_N,) = (read_tokens(lambda b, m=m: (m(b),), trees, 500, "cpu") for m in (tuned, bare))
    torch.testing.assert_close(off_N, tuned_N, atol=1e-4, rtol=1e-4)
    assert float((off_N - bare_N).abs().max()) > 0.01
    assert "which is another model" not in said(stage)


def test_a_reference_that_is_the_base_by_mistake_is_said(run, context, reward):
    stage, _ = run(context(ASKED, reward=reward), model="sft", reference="base", steps=1)
    assert "the KL will hold it to the wrong model" in said(stage)
    assert "nats a token from those of its reference" in said(stage)


def test_the_reference_is_the_starting_policy(run):
    stage, _ = run(steps=1)
    assert "wrong model" not in said(stage)
    assert "another model" not in said(stage)


def test_adapters_need_no_second_copy_of_the_trunk(run, monkeypatch):
    loads = []
    monkeypatch.setattr(_ppo, "load_policy", lambda *a, **k: loads.append(a) or load_policy(*a, **k))
    stage, _ = run(lora={"r": 4}, steps=2, value={"model": "adapters"})
    assert loads == []
    kept = load_file(stage.folder / "adapter" / "adapter_model.safetensors")
    assert not any("critic" in name for name in kept)  # the policy's alone
    run(replace(stage), steps=1)
    assert len(loads) == 1


def test_the_gold_reward_is_the_reward_or_is_watched(run, context, reward, monkeypatch):
    stage = context(["x"], reward=reward)
    write_records(Path(stage.artifacts["prompts"].folder) / "test.jsonl", make_prompts(4, "test"))
    _, figures = run(stage, gold="verifiable", steps=1)
    assert 0 <= figures["validation_gold"] <= 1
    assert figures["validation_gold"] != figures["validation_reward"]
    assert "gold" not in logged(stage)[0]
    settings = ppo.Settings(**{**SMALL, "reward": None, "gold": "verifiable"})
    own = _ppo.Reinforcement(settings, stage)
    rollout = own.roll_out(0)
    assert isinstance(own.feedback[0], VerifiableReward)
    assert all(0 <= r <= 1 for r in rollout.reward_C.tolist())


def test_several_rewards_are_summed_and_safety_takes_over(context, reward, saved_policy, tmp_path):
    source = saved_policy("llama", 3)
    other = str(
        save_model(load_sequence_classifier(source, fresh_head=True, seed=2), load_tokenizer(source), tmp_path / "r2")
    )
    stage = context(ASKED, reward=reward, safety=other)
    rewards = [{"model": "reward", "weight": 2.0}, {"model": "safety", "below": 0.5}]
    own = trial(stage, reward=None, rewards=rewards)
    prompts = own.prompts[:3]
    answers = own.answers(prompts, 3, 0)
    rollout, _ = own.judged(prompts, answers, held_out=False)
    texts = [[completion.text for completion in some] for some in answers]
    helpful, safe = ([s for some in RewardModel(name).score(prompts, texts) for s in some] for name in (reward, other))
    wanted = [s if s < 0 else 2 * h for h, s in zip(helpful, safe, strict=True)]
    assert rollout.reward_C.tolist() == pytest.approx(wanted, abs=1e-4)
    assert {"score_1", "score_2"} <= rollout.figures.keys()
    marked = [Prompt(prompt.prompt, {"safety": True}) for prompt in prompts]
    guarded, _ = own.judged(marked, answers, held_out=False)
    assert guarded.reward_C.tolist() == pytest.approx(safe, abs=1e-4)


def test_penalties_are_of_length_and_of_answers_that_were_cut(context, reward):
    stage = context(ASKED, reward=reward)
    own = trial(stage, shaping={"missing_eos_penalty": 1.0, "length_penalty": 0.5})
    plain = trial(stage)
    answers = own.answers(own.prompts[:3], 3, 0)
    one, other = (one.judged(own.prompts[:3], answers, held_out=False)[0].reward_C for one in (own, plain))
    flat = [completion for some in answers for completion in some]
    assert (other - one).tolist() == pytest.approx([0.5 * len(c.ids) + (not c.finished) for c in flat], abs=1e-5)


def test_a_truncated_distribution_is_corrected(run, context):
    stage, _ = run(sampling={"max_tokens": 6, "top_k": 20}, estimator="rloo", steps=1)
    row = logged(stage)[0]
    assert 0 < row["importance"] < 1  # under the full distribution each token was less likely
    assert "engine_gap" not in row


def test_nothing_that_ends_is_said_once(run):
    stage, _ = run(steps=2, sampling={"max_tokens": 1})
    assert said(stage).count("ended within max_tokens 1; raise that") == 1


def test_a_value_model_that_does_not_fit_is_one_sentence(context, reward, saved_policy, tmp_path, tiny_tokenizer):
    source = saved_policy("llama", 3)
    two = load_sequence_classifier(source, num_labels=2, fresh_head=True, seed=2)
    save_model(two, load_tokenizer(source), tmp_path / "two")
    own = {"value": {"model": "own"}, "value_from": "other"}
    with pytest.raises(SawyerError, match="has 2 outputs and 1 were asked for"):
        trial(context(ASKED, reward=reward, other=str(tmp_path / "two")), **own)


def test_a_value_model_that_is_an_encoder_is_one_sentence(context, reward, saved_encoder):
    stage = context(ASKED, reward=reward, other=saved_encoder())
    with pytest.raises(SawyerError, match="an encoder: it has to read the policy's tokens one by one"):
        trial(stage, value={"model": "own"}, value_from="other")


def test_a_value_model_that_reads_other_tokens_is_one_sentence(context, reward, tmp_path):
    tokenizer = load_tokenizer(reward)
    tokenizer.add_tokens(["glaciology"])
    save_model(load_sequence_classifier(reward), tokenizer, tmp_path / "other")
    stage = context(ASKED, reward=reward, other=str(tmp_path / "other"))
    with pytest.raises(SawyerError, match="whose tokenizer has another vocabulary than the policy's"):
        trial(stage, value={"model": "own"}, value_from="other")


def test_a_value_model_starts_from_the_reward_model(context, reward):
    own = trial(context(ASKED, reward=reward), value={"model": "own"}, value_from="reward")
    kept = load_sequence_classifier(reward)
    assert torch.equal(own.actor.critic.core.score.weight, kept.score.weight)
    fresh = trial(own.context, value={"model": "own"})
    assert not bool(fresh.actor.critic.core.score.weight.any())


def test_a_recipe_with_ppo_runs_to_its_report(command, saved_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = {"source": "verifiable", "seed": 3}
    stages = {
        "prompts": {
            "stage": "data",
            "parts": {name: {**source, "split": name, "n": 4} for name in ("train", "validation", "test")},
        },
        "ppo": {
            "model": "base", "data": "prompts", "gold": "verifiable", "steps": 2, "batch_size": 2, "n": 2,
            "sampling": {"max_tokens": 8}, "learning_rate": 1e-3, "kl": {"as": "loss", "estimator": "k2"},
        },
        "evaluate": {
            "policies": ["base", "ppo"], "data": "prompts", "n": 1, "sampling": {"max_tokens": 8},
            "gold": "verifiable", "reference": "base",
        },
    }  # fmt: skip
    recipe = {"name": "tiny", "model": saved_policy("llama"), "stages": stages}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, _, err = command("run", "tiny.yaml", "--out", "out")
    assert code == 0, err
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["stages"]["ppo"]["figures"]["steps"] == 2
    assert set(json.loads(Path("out/evaluate/evaluation.json").read_text())["policies"]) == {"base", "ppo"}
    page = Path("out/report.html").read_text()
    assert "Answers along the training" in page
    assert "Reward of stage ppo" in page
    code, _, err = command("run", "tiny.yaml", "--out", "out")
    assert code == 0, err
    assert json.loads(Path("out/summary.json").read_text())["stages"]["ppo"]["state"] == "finished"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": None}, "give `reward`, a model, or `rewards`, several, or a gold reward"),
        ({"rewards": [{"model": "reward"}]}, "and not both"),
        ({"reward": None, "rewards": [{"model": "reward", "below": 0.1}]}, "need one without `below`"),
        ({"reward": None, "rewards": [{"weight": 2}]}, "has a `model` or `gold: verifiable`"),
        ({"sampling": {"temperature": 0}}, "a temperature above 0"),
        ({"value_from": "reward"}, "is for `estimator: gae` with"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        ppo.Settings(**{**SMALL, **settings})


def test_more_models_need_more_memory():
    plain = ppo.needs(ppo.Settings(**SMALL), 10**9)["memory_gb"]
    own = ppo.needs(ppo.Settings(**{**SMALL, "value": {"model": "own"}}), 10**9)["memory_gb"]
    adapters = ppo.needs(ppo.Settings(**{**SMALL, "lora": {}}), 10**9)["memory_gb"]
    assert own == pytest.approx(plain + 20)
    assert adapters == pytest.approx(plain - 15 - 4)  # no masters, and no reference of its own


def test_rollouts_of_other_prompts_follow(context, reward):
    own = trial(context(ASKED, reward=reward))
    first, second = own.roll_out(0), own.roll_out(1)
    assert [t.prompt for t in first.trees] == [own.chat.prompt_ids(p.prompt) for p in own.prompts[:3]]
    assert [t.prompt for t in second.trees] == [own.chat.prompt_ids(p.prompt) for p in own.prompts[3:]]
    assert isinstance(first, loop.Rollout)
    assert len(read_records(Path(own.context.artifacts["prompts"].folder) / "test.jsonl")) == 6
