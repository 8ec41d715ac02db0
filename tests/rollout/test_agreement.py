"""A rollout's log-probs are the trainer's on the same tokens, so that importance ratios start at one."""

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.data.records import Prompt
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.trees.model import TreePolicy
from sawyer.trees.tree import TokenTree, TreeBatch


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma", "mistral", "gpt2"])
def test_rollout_log_probs_are_the_trainers(arch, tiny_policy, tiny_tokenizer):
    model = tiny_policy(arch)
    chat = ChatFormat(tiny_tokenizer)
    prompts = [Prompt("What is a river?"), Prompt("Name a bridge in the town.")]
    completions = TorchEngine(model, chat).generate(prompts, Sampling(max_tokens=20), 3, seed=5)
    trees = [
        TokenTree(chat.prompt_ids(prompt.prompt), [completion.ids for completion in own])
        for prompt, own in zip(prompts, completions, strict=True)
    ]
    with torch.no_grad():
        trained = TreePolicy(model)(TreeBatch.of(trees))
    sampled = torch.tensor([logp for own in completions for completion in own for logp in completion.logps])
    torch.testing.assert_close(trained, sampled, rtol=0, atol=1e-4)
