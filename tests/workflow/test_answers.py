"""Stages `generate` and `evaluate`: prompts that cannot be answered, and what an evaluation says of itself."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sawyer.errors import SawyerError
from sawyer.evals import best_of_n
from sawyer.feedback.reward_model import RewardModel
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.stages import _evaluate, evaluate, generate, iterate
from sawyer.rollout.sampling import Sampling

SHORT = [f"What is a {thing}?" for thing in ("river", "town", "bridge", "light")]


def said(context: Context) -> str:
    return context.voice.stream.getvalue()


def answer(context: Context) -> dict:
    settings = {"model": "base", "data": "prompts", "parts": ["test"], "n": 2, "sampling": {"max_tokens": 4}}
    return generate.run(generate.Settings(**settings), context)


def compare(context: Context, policies: list[str], **settings) -> dict:
    settings = {"policies": policies, "data": "prompts", "n": 2, "sampling": {"max_tokens": 4}} | settings
    evaluate.run(evaluate.Settings(**settings), context)
    return json.loads((context.folder / "evaluation.json").read_text())


def test_generate_leaves_out_a_prompt_that_is_too_long_and_says_so(context):
    stage = context([*SHORT[:2], "tall " * 80, *SHORT[2:]])
    figures = answer(stage)
    assert (figures["test"], figures["test_unanswered"]) == (8, 1)
    rows = [json.loads(line) for line in (stage.folder / "test.jsonl").read_text().splitlines()]
    assert [row["prompt"][-1]["content"] for row in rows] == SHORT
    assert '1 of 5 prompts of prompts/test could not be answered and are left out; the first begins "tall' in said(
        stage
    )
    assert "exceeds the model's context of 256" in said(stage)


def test_iterate_leaves_out_prompts_that_are_too_long_and_says_so(context, reward):
    stage = context([*SHORT, "tall " * 80], reward=reward)
    settings = {
        "model": "base", "data": "prompts", "reward": "reward", "part": "test", "validation": "test", "iterations": 1,
        "prompts": 5, "validation_prompts": 5, "n": 2, "sampling": {"max_tokens": 5}, "batch_size": 2,
    }  # fmt: skip
    iterate.run(iterate.Settings(**settings), stage)
    assert "1 of 5 prompts of prompts/test could not be answered and are left out" in said(stage)


def test_generate_says_nothing_where_all_are_answered(context):
    stage = context(SHORT)
    assert "test_unanswered" not in answer(stage)
    assert said(stage) == ""


def test_generate_refuses_prompts_that_are_all_too_long(context):
    with pytest.raises(
        SawyerError, match=r'not one of the 2 prompts of prompts/test .* begins "0 tall .*context of 256'
    ):
        answer(context([f"{i} " + "tall " * 80 for i in range(2)]))


def test_evaluate_leaves_a_prompt_out_for_all_policies_where_one_cannot_answer_it(context, saved_policy):
    small = saved_policy("llama", 2)
    config = Path(small) / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 256', '"max_position_embeddings": 60'))
    stage = context([*SHORT, "tall " * 20], small=small)
    evaluation = compare(stage, ["base", "small", "sft"])
    assert evaluation["unanswered"] == 1
    assert [figures["prompts"] for figures in evaluation["policies"].values()] == [4, 4, 4]
    assert "1 of 5 prompts of prompts/test could not be answered" in said(stage)


def test_evaluate_refuses_prompts_that_are_all_too_long(context):
    with pytest.raises(SawyerError, match="not one of the 1 prompts"):
        compare(context(["tall " * 80]), ["base", "sft"])


def test_an_evaluation_states_its_seeds_and_its_sampling(context, reward):
    stage = context(SHORT, reward=reward)
    evaluation = compare(stage, ["base", "sft"], proxy="reward")
    assert evaluation["training_seeds"] == [7]
    assert evaluation["generation_seed"] == 5
    assert evaluation["sampling"] == {"temperature": 1.0, "max_tokens": 4}
    assert evaluation["unanswered"] == 0
    assert "n = 4 prompts x 2 samples, one seed (7)" in said(stage)


def test_reward_models_keep_to_the_token_budget_of_the_evaluation(context, reward, monkeypatch):
    budgets = []

    class Remembering(RewardModel):
        def score(self, prompts, completions):
            budgets.append(self.token_budget)
            return super().score(prompts, completions)

    monkeypatch.setattr("sawyer.feedback.multi_objective.RewardModel", Remembering)
    compare(context(SHORT, reward=reward), ["base"], proxy="reward", gold_model="reward", token_budget=64)
    assert budgets == [64, 64]


def test_the_kl_is_called_unbiased_only_of_samples_of_the_policy_itself(context):
    stage = context(SHORT)
    plain = compare(stage, ["base", "sft"], reference="base")
    assert plain["policies"]["sft"]["kl"]["mean"] > 0
    assert plain["kl_unbiased"]
    for sampling in ({"temperature": 0.7}, {"top_p": 0.9}, {"repetition_penalty": 1.2}, {"min_tokens": 2}):
        drawn = _evaluate._how_drawn(Sampling(**sampling), stage)
        assert not drawn["kl_unbiased"]
        assert sampling.items() <= drawn["sampling"].items()


def test_the_kl_between_different_vocabularies_is_left_out(context, saved_policy):
    other = saved_policy("llama", 4)
    file = Path(other) / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    stage = context(SHORT, other=other)
    evaluation = compare(stage, ["base", "sft", "other"], reference="base")
    assert [("kl" in figures) for figures in evaluation["policies"].values()] == [True, True, False]
    assert "the KL of other to base is left out: their tokenizers have different vocabularies" in said(stage)


def test_policies_are_compared_by_other_ways_of_decoding_too(context):
    stage = context(SHORT)
    evaluation = compare(stage, ["base", "sft"], reference="base", gold="length", decodings=["greedy", "contrastive"])
    assert list(evaluation["decodings"]) == ["greedy", "contrastive"]
    greedy = evaluation["decodings"]["greedy"]
    assert greedy["sampling"] == {"temperature": 0.0, "max_tokens": 4}
    assert greedy["policies"]["sft"]["completions"] == len(SHORT), "a search has one answer"
    assert greedy["comparisons"][0]["gold"]["n"] == len(SHORT)
    assert greedy["policies"]["sft"]["kl"]["n"] == len(SHORT)
    assert len((stage.folder / "completions-greedy.jsonl").read_text().splitlines()) == 2 * len(SHORT)
    alone = compare(stage, ["base", "sft"], reference="base", gold="length")
    assert alone["policies"] == evaluation["policies"], "the policies' own samples are the same without them"


def test_best_of_n_is_measured_from_samples_of_the_reference(context, reward):
    stage = context(SHORT, reward=reward)
    evaluation = compare(stage, ["base", "sft"], reference="base", proxy="reward", gold_model="reward", best_of=6)
    found = evaluation["best_of_n"]
    assert (found["policy"], found["samples"]) == ("base", 6)
    assert [point["n"] for point in found["points"]] == [1, 2, 4, 6]
    assert found["points"][2]["kl"] == pytest.approx(best_of_n.kl(4))
    means = [point["proxy"]["mean"] for point in found["points"]]
    assert means == sorted(means)
    assert [point["gold"] for point in found["points"]] == [point["proxy"] for point in found["points"]]
    assert found["points"][0]["proxy"]["n"] == 4
    rows = [json.loads(line) for line in (stage.folder / "best_of_n.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 4
    assert {row["prompt"][-1]["content"] for row in rows} == set(SHORT)
    last = [row["proxy"] for row in rows if row["n"] == 6]
    assert sum(last) / 4 == pytest.approx(means[-1])


def test_prompts_that_the_reference_cannot_answer_are_left_out_of_the_curve_too(context, reward, saved_policy):
    small = saved_policy("llama", 2)
    config = Path(small) / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 256', '"max_position_embeddings": 60'))
    stage = context([*SHORT, "tall " * 20], reward=reward, small=small)
    evaluation = compare(stage, ["small", "base"], reference="small", proxy="reward", best_of=2)
    assert evaluation["unanswered"] == 1
    assert evaluation["best_of_n"]["points"][0]["proxy"]["n"] == 4
    assert "gold" not in evaluation["best_of_n"]["points"][0]
    assert evaluation["policies"]["base"]["prompts"] == 4


@pytest.mark.parametrize("more", [{"proxy": "reward"}, {"reference": "base"}, {}])
def test_best_of_n_needs_to_know_by_what_and_of_whom(more):
    with pytest.raises(ValidationError, match="`best_of` keeps the best by `proxy` of what `reference` says"):
        evaluate.Settings(policies=["base"], data="prompts", best_of=4, **more)


def test_without_best_of_there_is_no_curve(context, reward):
    stage = context(SHORT, reward=reward)
    assert "best_of_n" not in compare(stage, ["base"], reference="base", proxy="reward")
    assert not (stage.folder / "best_of_n.jsonl").exists()


def iterated(stage, reward_settings):
    """The artifact of an `iterate` stage among those of `stage`, with two iterates."""
    settings = {
        "model": "base", "data": "prompts", "part": "test", "validation": "test", "iterations": 2, "prompts": 4,
        "validation_prompts": 3, "n": 3, "sampling": {"max_tokens": 5}, "batch_size": 2, **reward_settings,
    }  # fmt: skip
    figures = iterate.run(iterate.Settings(**settings), stage)
    place = stage.folder.parent / "iterated"
    stage.folder.rename(place)
    stage.folder.mkdir()
    facts = {"name": "iterated", "figures": figures, "recipe_seed": 7}
    stage.artifacts["iterated"] = Artifact(place, facts)
    return figures


def test_every_iterate_or_the_best_alone(context, reward):
    stage = context(SHORT, reward=reward)
    iterated(stage, {"reward": "reward"})
    assert compare(stage, ["base", "iterated"])["order"] == ["base", "iterated-1", "iterated-2"]
    evaluation = compare(stage, ["base", "iterated"], iterates="best")
    assert evaluation["order"] == ["base", "iterated"]
    assert [(c["policy"], c["against"]) for c in evaluation["comparisons"]] == [("iterated", "base")]


def test_answers_that_the_gold_reward_has_seen_are_counted(context, monkeypatch):
    class Length:
        name = "gold"

        def score(self, prompts, completions):
            seen.extend(text for own in completions for text in own)
            return [[len(text) / 100 for text in own] for own in completions]

    seen: list[str] = []
    monkeypatch.setattr("sawyer.feedback.rules.VerifiableReward", Length)
    stage = context(SHORT)
    figures = iterated(stage, {"gold": "verifiable"})
    assert figures["gold_labels"] == len(seen) == 2 * (4 * 3 + 3)
    assert [own["gold_labels"] for own in figures["iterations"]] == [15, 15]


@pytest.mark.parametrize("given", [{}, {"reward": "reward", "gold": "verifiable"}])
def test_iterate_learns_from_one_reward(given):
    with pytest.raises(ValidationError, match="give `reward`, a model, or a gold reward"):
        iterate.Settings(model="base", data="prompts", **given)
