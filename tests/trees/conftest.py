"""Decoders whose peculiarities tree attention has to honour, tiny and random, and trees of every shape."""

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sawyer.models.heads import attach_fresh_head
from sawyer.trees.tree import TokenTree

VOCAB = 97
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PECULIARITIES = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "gemma2": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0,
               "final_logit_softcapping": 3.0},
    "mistral": {"sliding_window": 6},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "phi": {},
    "qwen3": {"head_dim": 8},
    "stablelm": {},
    "gpt_neox": {},
    "granite": {"logits_scaling": 3.0},
    "cohere2": {"sliding_window": 6, "logit_scale": 0.3},
    "hyperclovax": {"logits_scaling": 0.3},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_oss": {"sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 2},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "mamba": {},
    "lfm2": {"full_attn_idxs": [1]},
    "bloom": {"n_layer": 2, "n_head": 4},
}  # fmt: skip


@pytest.fixture(scope="session")
def decoder() -> Callable[..., PreTrainedModel]:
    """`decoder(arch)`: a fresh causal LM of two layers, float32, no dropout; with `reward=True` under a score head."""

    def build(arch: str, *, reward: bool = False, **changes) -> PreTrainedModel:
        config = CONFIG_MAPPING[arch](**{**SHAPE, **PECULIARITIES[arch], **changes})
        for key, value in list(vars(config).items()):
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            with torch.no_grad():
                for parameter in model.parameters():  # make attention and logits far from uniform, biases not zero
                    if parameter.dim() > 1:
                        parameter.mul_(4.0)
                    else:
                        parameter.add_(0.1 * torch.randn_like(parameter))
        return (attach_fresh_head(model) if reward else model).eval()

    return build


@pytest.fixture(scope="session")
def grow() -> Callable[..., list[TokenTree]]:
    """`grow([(prompt, completion, ...), ...])`: trees of random tokens with these lengths."""

    def build(
        lengths: Sequence[Sequence[int]], seed: int = 0, spans: bool = False, values: Sequence[str] = ()
    ) -> list[TokenTree]:
        generator = torch.Generator().manual_seed(seed)

        def tokens(n: int) -> list[int]:
            return torch.randint(3, VOCAB, (n,), generator=generator).tolist()

        def flags(n: int) -> list[bool]:  # two spans: a first turn and a last one, with an unscored turn between
            return [i < n // 3 or i >= (n + 1) // 2 for i in range(n)]

        def numbers(n: int) -> list[float]:
            return (-3 * torch.rand(n, generator=generator)).tolist()

        return [
            TokenTree(
                tokens(prompt),
                [tokens(n) for n in completions],
                scored=[flags(n) for n in completions] if spans else None,
                values={name: numbers(len(completions)) for name in values},
            )
            for prompt, *completions in lengths
        ]

    return build
