"""TR-DPO, curricula and the KL divergence of a training: each against a slow reference, and over a kill."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file

from sawyer.errors import SawyerError
from sawyer.journal import Silent
from sawyer.losses.registry import LOSSES
from sawyer.train import divergence
from sawyer.train.curriculum import cut, difficulties, easy_first, in_order
from sawyer.train.divergence import Divergence, sample
from sawyer.train.loop import data_order, measure, train
from sawyer.train.moving import MovingReference
from sawyer.train.optim import MasterWeights
from sawyer.train.preference import REFERENCE, Weighted, dpo, preference
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree
from tests.lives import Killed, Mortal, same, without_speed
from tests.reference import completion_sums, eager, padded_logprobs

STEPS, BATCH, BETA = 7, 6, 0.3


@pytest.fixture
def follow(policy, toy, optimizer):
    """`follow(moving, journal=..., scratch=..., **rest)`: a DPO of seven updates against a moving reference."""

    def run(moving, journal=None, scratch=None, model=policy, precision="fp32", trees=None, companions=(), **changes):
        settings = optimizer(**{"steps": STEPS, "batch_size": BATCH, "schedule": "constant", **changes})
        return train(
            model(), toy() if trees is None else trees, moving.against(dpo(beta=BETA)), settings, precision=precision,
            seed=5, journal=journal or Silent(), title="dpo", scratch=scratch, companions=[moving, *companions],
        )  # fmt: skip

    return run


def adapted(tiny_policy):
    def make():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = LoraConfig(r=4, target_modules="all-linear", task_type=TaskType.CAUSAL_LM)
            return TreePolicy(get_peft_model(tiny_policy("llama"), config))

    return make


@pytest.mark.parametrize(("every", "alpha"), [(2, 0.6), (3, 1.0)])
def test_the_reference_follows_as_in_a_loop_with_two_models(every, alpha, follow, tiny_policy, toy):
    trees = toy()
    found = follow(MovingReference(every, alpha), warmup_ratio=0.0, eps=1e-4)

    policy, reference = eager(tiny_policy("llama")), eager(tiny_policy("llama"))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, eps=1e-4, weight_decay=0.0)
    for step, batch in enumerate(data_order(len(trees), BATCH, STEPS, 5), 1):
        chosen = [trees[i] for i in batch]
        with torch.no_grad():
            ref = completion_sums(padded_logprobs(reference, chosen), chosen)
        own = completion_sums(padded_logprobs(policy, chosen), chosen)
        u = (torch.stack(list(own)) - torch.stack(list(ref))).view(-1, 2)
        loss = -F.logsigmoid(BETA * (u[:, 0] - u[:, 1])).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if step % every == 0:
            with torch.no_grad():
                for theirs, mine in zip(reference.parameters(), policy.parameters(), strict=True):
                    theirs.copy_(alpha * mine + (1 - alpha) * theirs)
    masters = {name.removeprefix("model."): value for name, value in found.weights.masters.items()}
    for name, value in policy.named_parameters():
        torch.testing.assert_close(masters[name], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_after_a_hard_update_the_policy_is_its_reference(precision, follow):
    journal = Silent()
    follow(MovingReference(3, 1.0), journal, precision=precision)
    margins = [line["margin"] for line in journal.lines]
    assert margins[0] == margins[3] == margins[6] == 0
    assert 0 not in (margins[1], margins[2], margins[4])


def test_adapters_are_the_reference_where_adapters_are_trained(follow, tiny_policy):
    journal, moving = Silent(), MovingReference(3, 1.0)
    trained = follow(moving, journal, model=adapted(tiny_policy))
    assert journal.lines[3]["margin"] == 0 != journal.lines[4]["margin"]
    assert set(moving.read) == set(trained.weights.masters)
    assert all("lora" in name for name in moving.read)


def test_another_model_may_be_the_first_reference(follow, tiny_policy, toy):
    other = tiny_policy("llama", 1)
    start = {name: p.detach() for name, p in other.named_parameters()}
    journal = Silent()
    follow(MovingReference(100, 1.0, start), journal, steps=1, batch_size=24)
    from sawyer.train.reference import with_reference

    trees = with_reference(lambda: other, toy(), precision="fp32", token_budget=64, journal=Silent())
    expected = measure(TreePolicy(tiny_policy("llama")), trees, dpo(beta=BETA), 64)
    assert journal.lines[0]["margin"] == pytest.approx(expected["margin"], rel=1e-4)


def test_a_first_reference_of_other_shapes_is_refused(follow, tiny_policy):
    start = {name: p.detach() for name, p in tiny_policy("qwen2").named_parameters()}
    with pytest.raises(SawyerError, match="the two differ in the shape of model"):
        follow(MovingReference(2, 0.5, {k: v for k, v in start.items() if "norm" not in k}))


def test_the_weights_are_the_policys_again_whatever_happens(policy, optimizer):
    model = policy().train()
    moving = MovingReference(1, 0.5)
    weights = MasterWeights(model, optimizer(), "bf16")
    moving.begin(model, weights)
    own = {name: p.data.data_ptr() for name, p in model.named_parameters()}
    seen = []

    def reading_fails():
        with moving.in_place(model):
            seen.append(not model.training)
            seen.extend(p.data.data_ptr() != own[name] for name, p in model.named_parameters())
            raise KeyError

    with pytest.raises(KeyError):
        reading_fails()
    assert all(seen)
    assert model.training
    assert all(p.data.data_ptr() == own[name] for name, p in model.named_parameters())
    assert all(p.dtype == torch.bfloat16 for p in moving.read.values())
    assert all(p.dtype == torch.float32 for p in moving.exact.values())


def test_trees_that_carry_a_reference_keep_it(policy, toy, optimizer):
    model, moving = policy(), MovingReference(1, 1.0)
    moving.begin(model, MasterWeights(model, optimizer(), "fp32"))
    bare = measure(model, toy(6), moving.against(dpo()), 64)
    given = measure(model, toy(6, values=(REFERENCE,)), moving.against(dpo()), 64)
    assert bare["margin"] == 0 != given["margin"]


def test_losses_of_shared_lengths_have_what_they_need(policy, toy, optimizer):
    model, moving = policy(), MovingReference(1, 1.0)
    moving.begin(model, MasterWeights(model, optimizer(), "fp32"))
    found = measure(model, toy(6), moving.against(preference([Weighted(LOSSES["ld_dpo"])])), 64)
    assert found["loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "hard", "lora"])
def test_killed_anywhere_and_continued_ends_in_the_same_bits(kind, follow, tiny_policy, policy, toy, tmp_path):
    settings = {"precision": "bf16" if kind == "bf16" else "fp32", "checkpoint_every": 2}
    settings["model"] = adapted(tiny_policy) if kind == "lora" else policy
    alpha = 1.0 if kind in ("hard", "lora") else 0.6

    def companions(where):
        return [Divergence(sample(toy(), 3, 0), 2, token_budget=64, file=where / "kl.safetensors")]

    whole = Mortal()
    expected = follow(
        MovingReference(3, alpha), whole, tmp_path / "w", companions=companions(tmp_path / "w"), **settings
    )
    for step in range(1, STEPS + 1) if kind == "fp32" else (3, 5):
        where, journal = tmp_path / str(step), Mortal(step)
        with pytest.raises(Killed):
            follow(MovingReference(3, alpha), journal, where, companions=companions(where), **settings)
        journal.dies_at = None
        found = follow(MovingReference(3, alpha), journal, where, companions=companions(where), **settings)
        same(found.weights.masters, expected.weights.masters)
        assert found.figures == expected.figures
        assert without_speed(journal.lines) == without_speed(whole.lines)


def slow_kl(policy, reference, trees):
    """The mean over all scored positions, one completion at a time."""
    values = []
    for tree in trees:
        for k, completion in enumerate(tree.completions):
            ids = torch.tensor([[*tree.prompt, *completion]])
            with torch.no_grad():
                p, q = (
                    model(ids).logits[0, len(tree.prompt) - 1 : -1].log_softmax(-1) for model in (policy, reference)
                )
            kl = (p.exp() * (p - q)).sum(-1)
            values += [
                v for v, keep in zip(kl, tree.scored[k] if tree.scored else [True] * len(kl), strict=True) if keep
            ]
    return float(torch.stack(values).mean())


@pytest.mark.parametrize("budget", [30, 4096])
def test_the_divergence_is_that_of_the_whole_distributions(budget, tiny_policy, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "POSITIONS", 10**6)
    trees = [*toy(3), TokenTree([5, 6], [[7, 8, 9], [10, 11]], scored=[[True, False, True], [False, True]])]
    policy, reference = tiny_policy("llama"), tiny_policy("llama", 1)
    found = Divergence(trees, 1, token_budget=budget, file=tmp_path / "kl.safetensors")
    found.keep(TreePolicy(copy.deepcopy(reference)))
    expected = slow_kl(eager(policy), eager(reference), trees)
    assert found.measure(TreePolicy(policy)) == pytest.approx(expected, rel=1e-4)
    again = Divergence(trees, 1, token_budget=budget, file=tmp_path / "kl.safetensors")
    again.keep(TreePolicy(policy))  # what is in the file stays the reference
    assert again.measure(TreePolicy(reference)) == pytest.approx(0, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["kl.safetensors"]


def test_a_few_positions_of_a_few_trees_are_enough(policy, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "POSITIONS", 5)
    trees = toy(20)
    few = sample(trees, 100, seed=1)
    assert len(few) == divergence.TREES
    assert len(sample(trees, 3, seed=1)) == 3
    assert few == sample(trees, 100, seed=1) != sample(trees, 100, seed=2)
    found = Divergence(few, 1, token_budget=64, file=tmp_path / "kl.safetensors")
    model = policy()
    found.keep(model)
    assert load_file(tmp_path / "kl.safetensors")["logp"].shape == (5, model.core.config.vocab_size)
    assert found.measure(model) == 0


def test_positions_are_spread_over_all_trees():
    assert divergence._positions([4, 4, 4], 3) == [[2], [2], [2]]
    assert divergence._positions([1, 0, 2], 64) == [[0], [], [0, 1]]
    assert divergence._positions([100], 4) == [[12, 37, 62, 87]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_divergence_grows_from_zero_and_is_in_the_log(precision, policy, toy, optimizer, tmp_path):
    journal = Silent()
    trees = toy(values=(REFERENCE,))
    kl = Divergence(sample(trees, 6, 0), 3, token_budget=64, file=tmp_path / "kl.safetensors")
    trained = train(
        policy(), trees, dpo(), optimizer(steps=7, learning_rate=1e-2), precision=precision, seed=0, journal=journal,
        title="dpo", companions=[kl],
    )  # fmt: skip
    measured = {line["step"]: line["kl"] for line in journal.lines if "kl" in line}
    assert list(measured) == [3, 6, 7]
    assert 0 < measured[3] < measured[7] == trained.figures["kl"]


def test_a_reference_of_another_vocabulary_has_no_divergence(policy, toy, tmp_path, optimizer):
    kl = Divergence(toy(2), 1, token_budget=64, file=tmp_path / "kl.safetensors")
    kl.reference_P_V = torch.zeros(4, 99)
    with pytest.raises(
        SawyerError, match="its reference's 99, so there is no KL divergence between them: set `kl_every`"
    ):
        kl.begin(policy(), MasterWeights(policy(), optimizer(), "fp32"))


def test_entropy_is_a_mean_over_the_tokens_of_the_update(policy, toy, optimizer):
    trees, model = toy(5, values=(REFERENCE,)), policy()
    core = eager(model.model)
    entropies = []
    for tree in trees:
        for completion in tree.completions:
            with torch.no_grad():
                logits = core(torch.tensor([[*tree.prompt, *completion]])).logits[0, len(tree.prompt) - 1 : -1]
            entropies += torch.distributions.Categorical(logits=logits).entropy().tolist()
    expected = sum(entropies) / len(entropies)
    for budget in (16, 4096):
        assert measure(policy(), trees, dpo(), budget)["entropy"] == pytest.approx(expected, rel=1e-5)
    journal = Silent()
    train(
        policy(), trees, dpo(), optimizer(steps=1, batch_size=5), precision="fp32", seed=0, journal=journal, title="t"
    )
    assert journal.lines[0]["entropy"] == pytest.approx(expected, rel=1e-5)


def pair(prompt, chosen, rejected, reference=None):
    values = {} if reference is None else {REFERENCE: reference}
    return TokenTree([1] * prompt, [[2] * chosen, [3] * rejected], values=values)


def test_what_is_easy():
    trees = [pair(2, 3, 4, [-3.0, -8.0]), pair(2, 2, 2, [-4.0, -2.0]), pair(9, 5, 5, [-5.0, -50.0])]
    assert easy_first(difficulties("length", trees, [None] * 3)) == [1, 0, 2]
    assert easy_first(difficulties("score_margin", trees, [0.5, 3.0, 0.5])) == [1, 0, 2]  # equals keep their order
    # means a token: -1 against -2, -2 against -1, -1 against -10
    assert difficulties("reference_margin", trees, []) == [-1.0, 1.0, -9.0]
    with pytest.raises(SawyerError, match="needs the `scores` of all comparisons, and number 2 has none"):
        difficulties("score_margin", trees, [1.0, None, 1.0])


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (5, 5), (7, 1)])
def test_parts_lose_nothing_and_are_alike_in_size(count, parts):
    found = cut(count, parts)
    assert [i for part in found for i in part] == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_data_in_order_is_passed_over_in_order(optimizer):
    trees = [pair(i + 1, 1, 1) for i in range(5)]
    source, settings = in_order(trees, optimizer(steps=None, epochs=2, batch_size=2))
    assert settings.steps == 5
    assert [len(tree.prompt) for step in range(5) for tree in source(step)[0]] == [1, 2, 3, 4, 5] * 2
