"""vLLM 0.33.0 as the engine sees it, without a GPU: its names, fields, limits and protocol, over a transformers model.

It generates one token at a time, a plain forward of the whole sequence for each, and samples in vLLM's order. Every
tensor-parallel worker has weights of its own, which come through its own GPU's memory, and prompts are cached: the
logits after a prompt stay those of the old weights until the cache is reset.
"""

import dataclasses
import math
import os
import sys
import types
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.rollout.fake_vllm_weights import MEMORY, Device, Worker, packed_ipc_producer

ENGINE_ARGS = {"max_model_len", "logprobs_mode", "weight_transfer_config", "max_num_seqs"}
"""Those of `EngineArgs` that are not in `LLM.__init__`, as far as the tests use them."""


class VLLMError(Exception):
    pass


class VLLMValidationError(VLLMError):
    pass


@dataclasses.dataclass
class SamplingParams:
    """The public fields, in order, with their defaults and limits."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: bool | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: Any = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprob_token_ids: Any = None
    prompt_logprob_start: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: Any = "cumulative"
    stream_interval: int | None = None
    skip_clone: bool = False
    output_text_buffer_length: int = 0
    structured_outputs: Any = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None
    bad_words: list[str] | None = None
    skip_reading_prefix_cache: bool | None = None
    thinking_token_budget: int | None = None
    repetition_detection: Any = None
    routed_experts_prompt_start: int = 0
    trace_decode_token_ids: list[int] | None = None

    def __post_init__(self):
        if 0 < self.temperature < 1e-2:
            self.temperature = 1e-2
        self.stop = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        self.stop_token_ids = list(dict.fromkeys(self.stop_token_ids or []))
        limits = {
            "presence_penalty": -2 <= self.presence_penalty <= 2,
            "frequency_penalty": -2 <= self.frequency_penalty <= 2,
            "repetition_penalty": 0 < self.repetition_penalty < math.inf,
            "temperature": 0 <= self.temperature <= 2,
            "top_p": 0 < self.top_p <= 1,
            "top_k": isinstance(self.top_k, int) and self.top_k >= -1,
            "min_p": 0 <= self.min_p <= 1,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 1,
            "min_tokens": 0 <= self.min_tokens <= (self.max_tokens or math.inf),
            "logprobs": self.logprobs is None or self.logprobs >= -1,
            "prompt_logprobs": self.prompt_logprobs is None or self.prompt_logprobs >= -1,
            "stop": all(self.stop) and (self.detokenize or not self.stop),
            "seed": self.seed is None or -(2**63) <= self.seed < 2**63,
        }
        for name, fine in limits.items():
            if not fine:
                raise VLLMValidationError(f"{name} out of range, got {getattr(self, name)}.")
        if self.temperature < 1e-5:
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0
            if self.n > 1:
                raise VLLMValidationError(f"n must be 1 when using greedy sampling, got {self.n}.")
        if self.skip_reading_prefix_cache is None:
            self.skip_reading_prefix_cache = self.prompt_logprobs is not None


@dataclasses.dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclasses.dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    routed_experts: Any = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: Any = None
    sampling_mask: Any = None
    spec_decode_metrics: Any = None
    weight_versions: Any = None


class RequestOutput:
    def __init__(self, request_id, prompt, prompt_token_ids, prompt_logprobs, outputs, finished):
        self.request_id, self.prompt, self.prompt_token_ids = request_id, prompt, prompt_token_ids
        self.prompt_logprobs, self.outputs, self.finished = prompt_logprobs, outputs, finished


class LLMEngine:
    def __init__(self, llm):
        self.llm, self.waiting = llm, []

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[RequestOutput]:
        return [self.llm._answer(*self.waiting.pop())]  # the last one first: the order is the caller's to restore

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        assert internal  # `enqueue` returns internal ids, with a random tail
        self.waiting = [request for request in self.waiting if request[0] not in request_ids]


class LLM:
    def __init__(
        self,
        model: str,
        *,
        runner="auto",
        tokenizer=None,
        trust_remote_code=False,
        tensor_parallel_size=1,
        dtype="auto",
        quantization=None,
        revision=None,
        seed=0,
        gpu_memory_utilization=0.92,
        enforce_eager=False,
        **kwargs,
    ):
        if unknown := kwargs.keys() - ENGINE_ARGS:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument '{min(unknown)}'")
        backend = kwargs.get("weight_transfer_config", {}).get("backend")
        self.pickles = os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION") == "1"
        self.workers = [Worker(model, rank, backend) for rank in range(tensor_parallel_size)]
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.mode = kwargs.get("logprobs_mode", "raw_logprobs")
        ends = self.workers[0].model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else set(ends)
        config = self.workers[0].model.config
        self.model_config = types.SimpleNamespace(
            max_model_len=kwargs.get("max_model_len") or config.max_position_embeddings,
            get_vocab_size=lambda: config.vocab_size,
        )
        self.llm_engine = LLMEngine(self)
        self.cache: dict[tuple[int, ...], torch.Tensor] = {}
        self.requests = 0
        self.computed = 0  # forwards since the beginning

    def get_world_size(self, include_dp: bool = True) -> int:
        return len(self.workers)

    def enqueue(
        self,
        prompts,
        sampling_params=None,
        lora_request=None,
        priority=None,
        use_tqdm=True,
        tokenization_kwargs=None,
        mm_processor_kwargs=None,
    ) -> list[str]:
        assert len(prompts) == len(sampling_params)
        for prompt in prompts:
            if not 0 < len(prompt["prompt_token_ids"]) < self.model_config.max_model_len:
                raise VLLMValidationError("The decoder prompt is empty or longer than the maximum model length.")
        ids = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids.append(f"{self.requests}-f00")
            self.llm_engine.waiting.append((ids[-1], prompt["prompt_token_ids"], params))
            self.requests += 1
        return ids

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        if self.llm_engine.waiting:
            return False
        self.cache.clear()
        return True

    def init_weight_transfer_engine(self, request: dict) -> None:
        for worker in self.workers:
            if worker.backend != "ipc":
                raise RuntimeError("Weight transfer not configured.")
            worker.packed = request["init_info"]["packed"]

    def start_weight_update(self) -> None:
        for worker in self.workers:
            if worker.active:
                raise RuntimeError("start_weight_update called while a weight update is already active.")
            worker.active = True

    def update_weights(self, request: dict) -> None:
        if not self.pickles:
            raise TypeError("Object of type <class 'type'> is not serializable")
        for worker in self.workers:
            worker.update_weights(request["update_info"])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        for worker in self.workers:
            if not worker.active:
                raise RuntimeError("finish_weight_update called without a matching start_weight_update.")
            worker.active = False

    # ------------------------------------------------------------------ generation

    def _forward(self, ids) -> torch.Tensor:
        """Logits `[T, V]`, float64."""
        self.computed += 1
        with torch.no_grad():
            return self.workers[0].model(torch.tensor([list(ids)])).logits[0].double()

    def _after(self, prompt, ids, params) -> torch.Tensor:
        if ids or params.skip_reading_prefix_cache:
            return self._forward([*prompt, *ids])[-1]
        if tuple(prompt) not in self.cache:
            self.cache[tuple(prompt)] = self._forward(prompt)[-1]
        return self.cache[tuple(prompt)]

    def _answer(self, request_id: str, prompt: list[int], params: SamplingParams) -> RequestOutput:
        generator = torch.Generator()
        generator.manual_seed(params.seed) if params.seed is not None else generator.seed()
        ids, logprobs, reason = [], [], None
        while reason is None:
            raw = self._after(prompt, ids, params)
            logits = processed(raw, prompt, ids, params, self.ends)
            drawn = logits.argmax() if params.temperature < 1e-5 else _draw(logits, generator)
            token = int(drawn)
            scores = (logits if self.mode == "processed_logprobs" else raw).log_softmax(-1)
            ids.append(token)
            logprobs.append({token: Logprob(float(scores[token]), int((scores >= scores[token]).sum()))})
            text = self.tokenizer.decode(ids, skip_special_tokens=params.skip_special_tokens)
            early = self.tokenizer.decode(ids[: params.min_tokens], skip_special_tokens=params.skip_special_tokens)
            found = [text.find(stop, max(0, len(early) - len(stop) + 1)) >= 0 for stop in params.stop]
            stop_ids = {*params.stop_token_ids, *(() if params.ignore_eos else self.ends)}
            if token in stop_ids or (any(found) and len(ids) > params.min_tokens):
                reason = "stop"
            elif len(ids) == params.max_tokens or len(prompt) + len(ids) == self.model_config.max_model_len:
                reason = "length"
        only = CompletionOutput(0, "", ids, None, None if params.logprobs is None else logprobs, finish_reason=reason)
        return RequestOutput(
            request_id.split("-")[0], None, prompt, self._prompt_logprobs(prompt, params), [only], True
        )

    def _prompt_logprobs(self, prompt, params):
        if params.prompt_logprobs is None:
            return None
        scores = self._forward(prompt).log_softmax(-1)
        return [None, *({t: Logprob(float(scores[at, t]))} for at, t in enumerate(prompt[1:]))]


def processed(raw: torch.Tensor, prompt, ids, params: SamplingParams, ends: set[int]) -> torch.Tensor:
    """Logits that softmax turns into the distribution drawn from, in the order of vLLM's second model runner.

    Too early an end is forbidden even where `ignore_eos` makes it none.
    """
    x = raw.clone()
    for token, bias in (params.logit_bias or {}).items():
        x[token] += bias
    if len(ids) < params.min_tokens:
        x[[*params.stop_token_ids, *ends]] = -math.inf
    for token in {*prompt, *ids}:
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token in set(ids):
        x[token] -= params.frequency_penalty * ids.count(token) + params.presence_penalty
    if params.temperature < 1e-5:
        return x
    x /= params.temperature
    x[x < x.max() + math.log(params.min_p or 1e-300)] = -math.inf
    if params.top_k > 0:
        x[x < x.topk(min(params.top_k, len(x))).values[-1]] = -math.inf
    order = x.argsort(descending=True)
    p = x[order].softmax(-1)
    x[order[(p.cumsum(-1) - p) >= params.top_p]] = -math.inf
    return x


def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.rand(len(logits), dtype=torch.float64, generator=generator)
    return (logits - (-noise.log()).log()).argmax()


def install(monkeypatch) -> None:
    """`import vllm` gets this module, and there are GPUs to name. Both end with the test."""
    packed = types.ModuleType("vllm.distributed.weight_transfer.packed_tensor")
    packed.packed_ipc_producer = packed_ipc_producer  # type: ignore[attr-defined]
    for name in ("vllm.distributed", "vllm.distributed.weight_transfer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, packed.__name__, packed)
    monkeypatch.setitem(sys.modules, "vllm", sys.modules[__name__])
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: types.SimpleNamespace(uuid=f"GPU-{i}"))
    monkeypatch.setattr(torch.cuda, "ipc_collect", MEMORY.clear)
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "")  # so that what the engine sets is undone
    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION")
