"""The embedded 135M model itself: what holds on tiny random models holds on it."""

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Comparison
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.models.embedded import embedded_model
from sawyer.models.load import load_policy, load_tokenizer
from sawyer.rollout.protocol import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.trees.build import comparison_tree
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TreeBatch
from tests.reference import eager, padded_logprobs

pytestmark = pytest.mark.real

ANSWERS = ("It is a large body of ice that moves slowly.", "Ice.", "I would rather talk about the weather of today.")


@pytest.fixture(scope="module")
def model():
    try:
        embedded_model(announce=lambda _: None)
    except SawyerError as error:
        pytest.skip(f"the embedded model cannot be had here: {error}")
    return load_policy("smollm2")


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(load_tokenizer("smollm2"))


def test_trees_equal_the_padded_reference(model, chat):
    comparisons = [Comparison(prompt.prompt, ANSWERS) for prompt in make_prompts(2, "train")]
    trees = [comparison_tree(chat, comparison) for comparison in comparisons]
    with torch.no_grad():
        expected = padded_logprobs(eager(model), trees, pad=0)
        found = TreePolicy(model)(TreeBatch.of(trees))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_those_of_transformers(model, chat):
    prompts = make_prompts(3, "validation")
    found = TorchEngine(model, chat).generate(prompts, Sampling(temperature=0.0, max_tokens=12))
    reference = load_policy("smollm2")
    for prompt, (completion,) in zip(prompts, found, strict=True):
        ids = torch.tensor([chat.prompt_ids(prompt.prompt)])
        out = reference.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=2)
        assert list(completion.ids) == out[0, ids.shape[1] :].tolist()
