"""What a request of `sawyer generate` needs: an engine, and the feedback that chooses among candidates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.apps.request import BATCH, GOLD, PRECISION, TOKEN_BUDGET, Request
from sawyer.data.prompts import PromptFile
from sawyer.errors import SawyerError
from sawyer.feedback.protocol import Feedback
from sawyer.pipeline.progress import Voice
from sawyer.rollout.protocol import Engine

if TYPE_CHECKING:
    import torch

    from sawyer.data.chat import ChatFormat
    from sawyer.rollout.api_engine import ApiEngine

CPU_BATCHES, GPU_BATCHES = 8, 16
"""How many batches a chunk is: what a kill loses at most, and how often a batch runs dry. With lengths spread evenly up
to the longest, k batches take k / 2 of a longest sequence's time, and draining the last one wastes 2 / 3 of one where a
step takes as long for few sequences as for many: under a tenth of the chunk from 13 batches on. On a CPU a step of few
is short, and 8 are enough."""
VLLM_CHUNK = 4096
"""Completions; vLLM keeps its own queue, which a chunk should not drain often."""


def local_engine(request: Request, voice: Voice) -> tuple[Engine, int]:
    """An engine for a local model, and how many completions a chunk is."""
    from sawyer.data.chat import ChatFormat
    from sawyer.models.load import load_tokenizer
    from sawyer.rollout.sampling import check_sampling

    check_sampling(request.sampling)
    values = _attributes(request, voice)
    tokenizer = load_tokenizer(request.model)
    chat = ChatFormat(tokenizer, request.chat_template, default="plain")
    if request.chat_template is None and getattr(tokenizer, "chat_template", None) is None:
        voice.say(f"{request.model} has no chat template: prompts are written in the template plain (Human, Assistant)")
    engine, chunk = (_vllm if request.engine == "vllm" else _torch)(request, chat)
    if values:
        from sawyer.rollout.conditioned import ConditionedEngine

        engine = ConditionedEngine(engine, values)
    return engine, chunk


def _attributes(request: Request, voice: Voice) -> dict[str, int]:
    """All attributes that the prompts are to name; none where none is asked for.

    Raises:
        SawyerError: the model was not trained with what is asked for.
    """
    from sawyer.data.attributes import Scheme, required_scheme
    from sawyer.models.locate import locate

    if request.attributes is not None:
        return required_scheme(locate(request.model), request.model).filled(request.attributes, request.model)
    scheme = Scheme.load(locate(request.model))
    if scheme is not None:
        voice.say(f"{request.model} was trained with attributes ({', '.join(scheme.ranges)}); ask with --attributes")
    return {}


def _torch(request: Request, chat: ChatFormat) -> tuple[Engine, int]:
    """A torch engine on the fastest device there is."""
    from sawyer.models.load import load_policy
    from sawyer.models.precision import DTYPES
    from sawyer.rollout.torch_engine import TorchEngine

    batch, budget = request.batch or BATCH, request.token_budget or TOKEN_BUDGET
    device = _device()
    model: Any = load_policy(request.model, dtype=DTYPES[request.precision or PRECISION])
    engine = TorchEngine(model.to(device), chat, take=True, max_batch=batch, token_budget=budget)
    together = max(1, min(batch, budget // request.sampling.max_tokens))
    return engine, together * (CPU_BATCHES if device.type == "cpu" else GPU_BATCHES)


def _vllm(request: Request, chat: ChatFormat) -> tuple[Engine, int]:
    from sawyer.rollout.vllm_engine import VllmEngine

    engine = VllmEngine(
        request.model,
        chat,
        tensor_parallel_size=request.gpus or 1,
        dtype={None: "auto", "fp32": "float32", "bf16": "bfloat16"}[request.precision],
        gpu_memory_utilization=0.9 if request.by in (None, GOLD) else 0.6,  # nobody but a reward model is beside it
        **({} if request.batch is None else {"max_num_seqs": request.batch}),
    )
    return engine, max(VLLM_CHUNK, GPU_BATCHES * (request.batch or 0))


def remote_engine(request: Request, work: Path) -> ApiEngine:
    """An API engine. Its answers are kept one by one: each was paid for."""
    from sawyer.rollout.api_engine import ApiEngine

    assert request.api is not None
    return ApiEngine(request.model, request.api, cache=request.cache or work / "answers")


def feedback(by: str, request: Request, prompts: PromptFile) -> Feedback:
    """What chooses among candidates.

    Raises:
        SawyerError: it is no reward model, or the gold reward cannot judge one of the prompts.
    """
    if by == GOLD:
        from sawyer.feedback.rules import VerifiableReward

        gold = VerifiableReward()
        gold.score(prompts.prompts, [[""]] * len(prompts.prompts))
        return gold
    from sawyer.feedback.multi_objective import open_reward_model
    from sawyer.models.locate import is_reward_model, locate

    if not is_reward_model(locate(by)):
        raise SawyerError(
            f"--by {by} is no reward model, for its config.json names no sequence classifier; give one, such as the "
            f"folder of a stage `reward`, or {GOLD} for prompts that carry their constraints"
        )
    return open_reward_model(by, precision=request.precision or PRECISION, device=_device())


def _device() -> torch.device:
    import torch

    return torch.accelerator.current_accelerator() or torch.device("cpu")
