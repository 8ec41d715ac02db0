"""A reward model that learns time and again."""

from dataclasses import replace

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison, Prompt, user
from sawyer.feedback.protocol import Feedback
from sawyer.feedback.reward_model import RewardModel
from sawyer.models.adapters import Trainable
from sawyer.models.load import load_sequence_classifier
from sawyer.models.lora import LoraSettings
from sawyer.train.discriminator import Discriminator
from sawyer.train.settings import OptimizerSettings

PROMPTS = [Prompt(f"What is a {thing}?") for thing in ("river", "town", "bridge")]
ANSWERS = [["It is well thank you.", "No no at all"]] * 3
PAIRS = [Comparison((user(f"What is a day? {i}"),), ("It is well thank you.", "No no at all")) for i in range(8)]


@pytest.fixture
def make(saved_policy, tiny_tokenizer):
    def build(lora: bool = False, precision: str = "fp32", **changes) -> Discriminator:
        adapters = LoraSettings(r=4, dropout=0.2) if lora else None
        optimizer = OptimizerSettings(
            **{"learning_rate": 1e-2, "schedule": "constant", "warmup_ratio": 0.0, "batch_size": 4, **changes}
        )
        name = saved_policy()
        return Discriminator(
            Trainable(lambda: load_sequence_classifier(name, fresh_head=True, seed=1), adapters, task="SEQ_CLS"),
            ChatFormat(tiny_tokenizer), optimizer, precision=precision,
        )  # fmt: skip

    return build


def fit(discriminator: Discriminator, pairs=PAIRS, epochs: float = 2.0, **more) -> dict[str, float]:
    return discriminator.fit(pairs, epochs, seed=3, title="it", **more)


def right(discriminator: Discriminator) -> float:
    """The smallest margin of a good answer."""
    return min(good - bad for good, bad in discriminator.score(PROMPTS, ANSWERS))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
def test_it_learns_again_and_again(make, lora, precision):
    discriminator = make(lora, precision)
    assert isinstance(discriminator, Feedback)
    before = right(discriminator)
    assert fit(discriminator)["updates"] == 4
    once = right(discriminator)
    assert once > before
    turned = [replace(pair, completions=pair.completions[::-1]) for pair in PAIRS]
    fit(discriminator, turned, epochs=4.0)
    assert right(discriminator) < once
    assert all(tensor.dtype == torch.float32 for tensor in discriminator.state().values())


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
def test_scores_are_in_float32_whatever_the_body_computes_in(make, lora):
    scores = torch.tensor(make(lora, "bf16").score(PROMPTS, ANSWERS))
    assert not torch.equal(scores, scores.bfloat16().float())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
def test_set_to_its_state_it_goes_on_to_the_same_bits(make, lora, precision):
    whole = make(lora, precision)
    fit(whole)
    state = {name: tensor.clone() for name, tensor in whole.state().items()}
    fit(whole)
    again = make(lora, precision)
    again.load(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state().items())
    fit(again)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in whole.state().items())
    assert whole.score(PROMPTS, ANSWERS) == again.score(PROMPTS, ANSWERS)


def test_fitting_leaves_the_random_state_alone(make):
    discriminator = make(lora=True)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit(discriminator)
    assert torch.equal(torch.rand(3), expected)


def test_of_nothing_it_learns_nothing(make):
    discriminator = make()
    before = discriminator.score(PROMPTS, ANSWERS)
    assert fit(discriminator, []) == {}
    assert fit(discriminator, [Comparison((user("tall " * 300),), ("a", "b"))]) == {}
    assert discriminator.score(PROMPTS, ANSWERS) == before


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
def test_saved_it_is_a_reward_model(make, lora, tmp_path):
    discriminator = make(lora)
    fit(discriminator)
    expected = discriminator.score(PROMPTS, ANSWERS)
    discriminator.save(tmp_path / "saved")
    again = RewardModel(str(tmp_path / "saved")).score(PROMPTS, ANSWERS)
    assert again == [pytest.approx(own, abs=1e-4) for own in expected]


def test_a_long_text_loses_its_beginning(make):
    ((long, short),) = make().score([Prompt("tall " * 300)], [["a", "b"]])
    assert long != short
