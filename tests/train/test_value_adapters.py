"""A critic of adapters beside the policy's, on one trunk: as a model of its own with the same weights, and no more."""

import pytest
import torch
from torch import nn

from sawyer.models.adapters import Trainable
from sawyer.models.lora import LoraSettings
from sawyer.trees.actor import ActorCritic, TreeCritic, read_tokens
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree, TreeBatch

LORA = LoraSettings(r=4)
TREES = [TokenTree([10, 11, 12], [[20, 21], [30, 31, 32]]), TokenTree([40], [[50, 51, 52, 53]])]


class Separate(TreeCritic):
    """The slow way: a second trunk, with adapters of its own and a head that starts at 0."""

    def __init__(self, model):
        super().__init__(model)
        self.head = nn.Linear(32, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch):
        hidden_N_D = self.hidden(batch)[batch.predict_index].float()
        return nn.functional.linear(hidden_N_D, self.head.weight.float(), self.head.bias.float())[:, 0]


@pytest.fixture
def adapted(tiny_policy):
    """`adapted()`: a fresh policy with adapters."""
    return lambda: Trainable(lambda: tiny_policy("llama"), LORA, seed=1).model


@pytest.fixture
def both(adapted):
    """`both()`: an actor whose critic is adapters, and a critic apart with the same weights."""

    def make():
        actor, separate = ActorCritic(adapted(), "adapters"), Separate(adapted())
        copy_adapters(actor, separate)
        return actor, separate

    return make


def copy_adapters(actor, separate):
    own = dict(actor.model.named_parameters())
    with torch.no_grad():
        for name, parameter in separate.model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(own[name.replace(".default.", ".critic.")])


def shaken(actor):
    """As after some training: adapters and head that do something."""
    torch.manual_seed(0)
    for name, parameter in actor.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3 if "lora" in name else 1.0)
    return actor


def test_values_are_those_of_a_model_apart_and_the_policy_knows_nothing_of_them(both, adapted, tiny_policy):
    actor, separate = both()
    shaken(actor)
    copy_adapters(actor, separate)
    separate.head.load_state_dict(actor.value_head.state_dict())
    plain = ActorCritic(adapted(), None)
    plain.load_state_dict({n: p for n, p in actor.state_dict().items() if "critic" not in n and "value_head" not in n})
    trunk = TreePolicy(tiny_policy("llama"))
    row = TreeBatch.of(TREES)
    seen = actor.read(row, entropy=True)
    torch.testing.assert_close(seen.value_N, separate(row), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.logp_N, plain.read(row).logp_N, atol=1e-6, rtol=1e-6)
    assert float(seen.value_N.detach().std()) > 0.1
    with actor.without_adapters():
        (off_N,) = read_tokens(lambda batch: (actor(batch),), TREES, 100, "cpu")
    torch.testing.assert_close(off_N, trunk(row).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actor.read(row).value_N, seen.value_N)


def test_each_loss_teaches_its_own_adapters_also_after_the_reference_was_read(both):
    actor, _ = both()
    shaken(actor)
    row = TreeBatch.of(TREES)
    with actor.without_adapters():
        actor(row)
    for loss, learns in (("value_N", True), ("logp_N", False)):
        actor.zero_grad()
        getattr(actor.read(row), loss).sum().backward()
        moved = {n: p.grad is not None and bool(p.grad.any()) for n, p in actor.named_parameters() if p.requires_grad}
        assert {n for n, own in moved.items() if own} == {n for n in moved if ActorCritic.is_critic(n) == learns}
    names = [n for n, p in actor.named_parameters() if p.requires_grad]
    assert len([n for n in names if ".critic." in n]) == len([n for n in names if ".default." in n]) > 0
    assert not actor.read(row, apart=True).logp_N.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_is_that_with_a_critic_apart(precision, both, trial):
    given = {"lora": LORA, "steps": 3, "mini_batches": 2, "learning_rate": 1e-2, "precision": precision, "keep": "last"}
    _, separate = both()
    slow = trial(critic=separate, value={"model": "own", "learning_rate": 2e-2}, **given)[3].weights.masters
    fast = trial(value={"model": "adapters", "learning_rate": 2e-2}, **given)[3].weights.masters
    renamed = {"value_head.weight": "critic.head.weight", "value_head.bias": "critic.head.bias"}
    assert len(fast) == len(slow)
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    for name, value in fast.items():
        other = renamed.get(name, name)
        if ".critic." in name:
            other = "critic." + name.replace(".critic.", ".default.")
        torch.testing.assert_close(value, slow[other], atol=tolerance, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert any(bool(value.any()) for name, value in fast.items() if "lora_B.critic" in name)
