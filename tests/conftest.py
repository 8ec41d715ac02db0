"""Tiny random models and a tiny tokenizer: every shape of decoder the product supports, in kilobytes."""

import gc
import os
import shutil
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
)

from sawyer.cli import main

torch.set_num_threads(1)

ARCHITECTURES = ("llama", "qwen2", "gemma", "mistral", "gpt2")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = [
    "The river runs through the old town and under the bridge.",
    "What is a glacier? Use at most 25 words and include the word light.",
    "system user assistant\nYou are a helpful assistant.\n",
    "Human: How are you today?\n\nAssistant: I am well, thank you, and you?",
]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens with a ChatML template: it writes any text, and pads with a token of its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_config(arch: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The configuration of a two-layer decoder of width 32 with `arch`'s peculiarities (see `ARCHITECTURES`)."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if arch == "gpt2":
        return GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        **ids,
    }
    if arch == "llama":
        return LlamaConfig(**shape, tie_word_embeddings=True)
    if arch == "qwen2":
        return Qwen2Config(**shape, tie_word_embeddings=False)
    if arch == "gemma":
        return GemmaConfig(**shape, head_dim=8)
    if arch == "mistral":
        return MistralConfig(**shape, sliding_window=16)
    raise ValueError(f"{arch} is not one of {ARCHITECTURES}")


@pytest.fixture(scope="session")
def tiny_policy(tiny_tokenizer) -> Callable[..., PreTrainedModel]:
    """`tiny_policy(arch, seed=0)`: a fresh random causal LM, float32, in eval mode, whose tokenizer is the tiny one."""

    def build(arch: str = "llama", seed: int = 0) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(tiny_config(arch, tiny_tokenizer), dtype=torch.float32)
            with torch.no_grad():  # initial weights of 0.02 give nearly equal logits: make the differences visible
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(4.0)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def policy_files(tmp_path_factory, tiny_policy, tiny_tokenizer) -> Callable[[str, int], Path]:
    """`policy_files(arch, seed)`: the folder of a tiny policy with its tokenizer, which no test may change."""

    def save(arch: str, seed: int) -> Path:
        folder = tmp_path_factory.mktemp("policies") / f"{arch}-{seed}"
        tiny_policy(arch, seed).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return cache(save)


@pytest.fixture
def saved_policy(tmp_path, policy_files) -> Callable[..., str]:
    """`saved_policy(arch, seed=0)`: the folder of a tiny policy with its tokenizer, the test's own, as a string."""

    def save(arch: str = "llama", seed: int = 0) -> str:
        folder = tmp_path / f"{arch}-{seed}"
        folder.mkdir(exist_ok=True)
        for file in policy_files(arch, seed).iterdir():
            (folder / file.name).unlink(missing_ok=True)  # models that were loaded from it may have it mapped
            shutil.copyfile(file, folder / file.name)
        return str(folder)

    return save


ENCODERS = ("roberta", "bert")
ENCODER_SPECIALS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


@pytest.fixture(scope="session")
def encoder_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    """`encoder_tokenizer(arch)`: the bytes' BPE with what `arch` puts around texts and pairs of texts."""

    def build(arch: str = "roberta") -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(ENCODER_SPECIALS.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(CORPUS, trainer)
        begin, end = ("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))
        inputs = ["input_ids", "attention_mask"]
        if arch == "roberta":
            backend.post_processor = processors.RobertaProcessing(
                end, begin, trim_offsets=False, add_prefix_space=False
            )
        else:
            backend.post_processor = processors.BertProcessing(end, begin)
            inputs.append("token_type_ids")
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, model_max_length=128, model_input_names=inputs, **ENCODER_SPECIALS
        )

    return cache(build)


@pytest.fixture
def saved_encoder(tmp_path, encoder_tokenizer) -> Callable[..., str]:
    """`saved_encoder(arch, seed=0)`: the folder of a tiny masked language model with its tokenizer, as a string."""

    def save(arch: str = "roberta", seed: int = 0) -> str:
        folder, tokenizer = tmp_path / f"{arch}-{seed}", encoder_tokenizer(arch)
        config = {"roberta": RobertaConfig, "bert": BertConfig}[arch](
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=130 if arch == "roberta" else 128, type_vocab_size=1 if arch == "roberta" else 2,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=2,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForMaskedLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(4.0)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(autouse=True, scope="session")
def no_power_cuts():
    """Files are flushed to the disk against power cuts, which no test has: a killed process loses nothing it wrote. So
    nothing waits for the disk in this process; processes that tests start do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def settled():
    """What was imported and made before lives to the end: where the product collects garbage, after every training and
    stage, it need not walk through all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ordinary_floating_point(monkeypatch):
    """`sawyer run` changes how its process computes; tests that call it in theirs must not change the others'."""
    monkeypatch.setattr("sawyer.numerics.prepare", lambda: None)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `sawyer ...` in this process; returns exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sawyer", *(str(argument) for argument in arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code or 0
        return code, *capsys.readouterr()

    return call
