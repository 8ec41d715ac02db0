"""Contenders of `benchmarks.rollout`: Sawyer's torch engine, `generate()` of transformers, CTranslate2.

Each gets the same prompt ids. A first, short generation over the same batch is not timed: it allocates what is
allocated once and compiles what is compiled once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sawyer.errors import SawyerError
from sawyer.rollout.cohorts import Limits, cohorts

WARM_UP_TOKENS = 4
LIBRARIES = ("sawyer.models.load", "sawyer.rollout.torch_engine", "transformers.models.llama.modeling_llama")
COMPUTE_TYPES = ("int8", "int8_bfloat16", "bfloat16")
"""Of CTranslate2, where the CPU has them."""
Generate = Callable[[int, int], list[list[int]]]
"""From the least and most new tokens to the completions, n of each prompt, the end token included."""


@dataclass(frozen=True)
class Contender:
    """One side, ready to generate.

    Attributes:
        model: None where its weights are not torch's.
        limits: how much it has in memory at a time.
    """

    generate: Generate
    model: Any
    limits: Limits


def require(peer: str) -> None:
    """Raise SawyerError unless `peer` is one we can measure against and is installed."""
    if peer not in ("hf", "ctranslate2"):
        raise SawyerError(f"there is no peer called {peer!r}: choose hf or ctranslate2")
    if peer == "ctranslate2" and importlib.util.find_spec("ctranslate2") is None:
        raise SawyerError("there is no CTranslate2 to measure against; in Sawyer's folder, pip install -e '.[bench]'")


def compute_types() -> list[str]:
    """The `COMPUTE_TYPES` that CTranslate2 has on this CPU."""
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types("cpu")
    return [name for name in COMPUTE_TYPES if name in supported]


def run(job: dict[str, Any], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Generate as `job` says: `seconds` and `tokens` of each repeat, `completions` of the last, and memory.

    `memory_bytes` is what the process took from before the model was loaded, with its libraries and its tokenizer
    there, to its highest point while generating; `needed_bytes` what its weights come to, with the keys and values of
    the sequences that it has at a time; `tokenizer_bytes` what the tokenizer took before.
    """
    if "alone" in job:
        return {"refresh": _refresh, "queue": _queue}[job["alone"]](job, prompts)
    from sawyer.models.load import load_tokenizer

    for library in LIBRARIES:  # their code is nobody's weights
        importlib.import_module(library)
    without = _status("VmRSS")
    tokenizer = load_tokenizer(job["model"])
    before = _status("VmRSS")
    contender = _CONTENDERS[job["contender"]](job, prompts, tokenizer)
    generate, model = contender.generate, contender.model
    generate(WARM_UP_TOKENS, WARM_UP_TOKENS)
    _reset_peak()
    seconds, tokens, completions = [], [], []
    for _ in range(job["repeats"]):
        began = time.perf_counter()
        completions = generate(job["min_tokens"], job["max_tokens"])
        seconds.append(time.perf_counter() - began)
        tokens.append(sum(map(len, completions)))
    result: dict[str, Any] = {"seconds": seconds, "tokens": tokens, "completions": completions}
    if model is not None:
        result["memory_bytes"] = _status("VmHWM") - before
        result["tokenizer_bytes"] = before - without
        result["needed_bytes"] = needed_bytes(model, prompts, job, contender.limits)
        result["flops"] = flops(model, prompts, completions, job["n"])
    return result


def _refresh(job: dict[str, Any], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Seconds that an engine takes for the weights of a float32 trainer: the median of three after a first."""
    from sawyer.data.chat import ChatFormat
    from sawyer.models.load import load_policy, load_tokenizer
    from sawyer.rollout.sampling import Sampling
    from sawyer.rollout.torch_engine import TorchEngine

    model = load_policy(job["model"])
    engine = TorchEngine(model, ChatFormat(load_tokenizer(job["model"])), precision=job["precision"])
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        engine.load(model.state_dict())
        loaded = time.perf_counter() - began
        engine.generate_ids(prompts, Sampling(temperature=0.0, max_tokens=1))  # whatever a refresh leaves for later
        began = time.perf_counter()
        engine.generate_ids(prompts, Sampling(temperature=0.0, max_tokens=1))
        again = time.perf_counter() - began
        began = time.perf_counter()
        engine.load(model.state_dict())
        engine.generate_ids(prompts, Sampling(temperature=0.0, max_tokens=1))
        seconds.append(max(loaded, time.perf_counter() - began - again))
    return {"seconds": median(seconds[1:])}


def _queue(job: dict[str, Any], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """New tokens a second with the first `few` prompts and with all of them, and the second rate over the first."""
    from sawyer.models.load import load_tokenizer

    tokenizer = load_tokenizer(job["model"])
    generate_few = _sawyer(job, prompts[: job["few"]], tokenizer).generate
    generate_all = _sawyer(job, prompts, tokenizer).generate
    generate_few(WARM_UP_TOKENS, WARM_UP_TOKENS)
    rates = []
    for generate in (generate_few, generate_all, generate_few):
        began = time.perf_counter()
        tokens = sum(map(len, generate(job["min_tokens"], job["max_tokens"])))
        rates.append(tokens / (time.perf_counter() - began))
    few = (rates[0] + rates[2]) / 2
    return {"few_tokens_per_second": few, "all_tokens_per_second": rates[1], "ratio": rates[1] / few}


def flops(model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], n: int) -> float:
    """Floating-point operations of the matrix products of a generation: each prompt once, each new token but the last
    once, the output embedding once a new token. Attention is left out."""
    head = model.get_output_embeddings()
    body = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    new = sum(map(len, completions))
    through = sum(map(len, prompts)) + new - n * len(prompts)
    return 2.0 * (body * through + head.weight.numel() * new)


def _sawyer(job: dict[str, Any], prompts: Sequence[Sequence[int]], tokenizer: Any) -> Contender:
    from sawyer.data.chat import ChatFormat
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES
    from sawyer.rollout.sampling import Sampling
    from sawyer.rollout.torch_engine import TorchEngine

    model = load_policy(job["model"], dtype=DTYPES[job["precision"]])
    engine = TorchEngine(model, ChatFormat(tokenizer), take=True)

    def generate(least: int, most: int) -> list[list[int]]:
        sampling = Sampling(temperature=job["temperature"], min_tokens=least, max_tokens=most)
        drawn = engine.generate_ids(prompts, sampling, job["n"], seed=job["seed"])
        return [list(completion.ids) for own in drawn for completion in own]

    return Contender(generate, model, engine.limits)


def _hf(job: dict[str, Any], prompts: Sequence[Sequence[int]], tokenizer: Any) -> Contender:
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES

    model = load_policy(job["model"], dtype=DTYPES[job["precision"]]).eval()
    end, width = tokenizer.eos_token_id, max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(own)) + list(own) for own in prompts])
    mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts])
    everything = Limits(len(prompts) * job["n"], len(prompts) * job["n"] * (width + job["max_tokens"]))
    torch.manual_seed(job["seed"])

    @torch.inference_mode()
    def generate(least: int, most: int) -> list[list[int]]:
        draw = dict(do_sample=True, temperature=job["temperature"], top_k=0, top_p=1.0, num_return_sequences=job["n"])
        out = model.generate(
            ids, attention_mask=mask, min_new_tokens=least, max_new_tokens=most, eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id, **(draw if job["temperature"] else {"do_sample": False}),
        )  # fmt: skip
        return [_until(row, end) for row in out[:, width:].tolist()]

    return Contender(generate, model, everything)


def _ctranslate2(job: dict[str, Any], prompts: Sequence[Sequence[int]], tokenizer: Any) -> Contender:
    """Of the job: `precision` is fp32 or one of `COMPUTE_TYPES`, `layout` how many batches at a time in how many
    threads each, `sequences` how many are in one, `converted` a folder for converted models, which are made once."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    from sawyer.models.load import resolve

    kind = {"fp32": "float32"}.get(job["precision"], job["precision"])
    folder = Path(job["converted"], kind)
    if not folder.exists():
        TransformersConverter(resolve(job["model"])).convert(str(folder), quantization=kind)
    at_a_time, threads = job["layout"]
    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type=kind, inter_threads=at_a_time, intra_threads=threads
    )
    pieces = [tokenizer.convert_ids_to_tokens(list(own)) for own in prompts for _ in range(job["n"])]
    draw = dict(sampling_topk=0, sampling_temperature=job["temperature"]) if job["temperature"] else {}

    def generate(least: int, most: int) -> list[list[int]]:
        out = generator.generate_batch(
            pieces, max_length=most, min_length=least, include_prompt_in_result=False, end_token=tokenizer.eos_token,
            max_batch_size=job["sequences"], return_end_token=True, **draw,
        )  # fmt: skip
        return [result.sequences_ids[0] for result in out]

    return Contender(generate, None, Limits(job["sequences"] * at_a_time, sys.maxsize))


_CONTENDERS: dict[str, Callable[..., Contender]] = {"sawyer": _sawyer, "hf": _hf, "ctranslate2": _ctranslate2}


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def needed_bytes(model: Any, prompts: Sequence[Sequence[int]], job: dict[str, Any], limits: Limits) -> int:
    """Bytes of the weights, and of the keys and values of as many sequences at their longest as run at a time."""
    config, weight = model.config, next(model.parameters())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * size * weight.element_size()
    lengths = [len(own) + job["max_tokens"] for own in prompts]
    held = [
        sum([lengths[i] for i in cohort for _ in range(job["n"])][:slots])  # the longest come first
        for cohort, slots in cohorts(lengths, job["n"], limits)
    ]
    return sum(p.numel() * p.element_size() for p in model.parameters()) + a_token * max(held)


def _status(field: str) -> int:
    """Bytes that Linux says of this process; elsewhere its highest memory so far."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
