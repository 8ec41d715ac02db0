"""New weights for a running vLLM, in memory: its weight transfer over CUDA IPC (vLLM 0.33.0, backend `ipc`).

A stretch of the weights is packed into a buffer on each GPU that vLLM runs on, and its worker there is told where the
buffer lies. The worker cuts its own part out of each weight, as it does when it reads a checkpoint, so that one way
serves any tensor-parallel size, and the trainer's weights may be on any device: CPU, a GPU of vLLM's, another GPU.

vLLM's own sender (`IPCTrainerWeightTransferEngine`) takes one trainer process per GPU; here is one process for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from sawyer.errors import SawyerError, reason

_BUFFER_BYTES = 256 * 2**20
"""Memory that a refresh takes on each GPU, unless a single weight is larger."""

CONFIG = {"backend": "ipc"}
"""The `weight_transfer_config` that `vllm.LLM` has to be made with."""


def connect(llm: Any) -> None:
    """Tell the workers of a new `vllm.LLM` how weights will come."""
    llm.init_weight_transfer_engine({"init_info": {"packed": True}})


def send(llm: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Give weights to every worker, and forget the keys and values that the old ones computed.

    Args:
        weights: by the names of a Hugging Face checkpoint; each on any device.

    Raises:
        SawyerError: vLLM did not take them. What it then holds is part old, part new.
    """
    try:
        llm.start_weight_update()
        for update in _updates(weights, llm.get_world_size(include_dp=False)):
            llm.update_weights({"update_info": update})
        llm.finish_weight_update()
        torch.cuda.ipc_collect()
        forgot = llm.reset_prefix_cache()
    except Exception as error:  # whatever a worker in another process raised
        raise SawyerError(f"vLLM did not take the weights, so make a new engine: {reason(error)}") from error
    if not forgot:
        raise SawyerError("vLLM kept the keys and values of its old weights: make a new engine")


def _updates(weights: Mapping[str, torch.Tensor], gpus: int) -> Iterator[dict[str, Any]]:
    """The messages of one refresh, each about weights that fill a buffer.

    vLLM's worker copies what a message is about before it answers, so the buffers are free for the next one.
    """
    from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

    sizes = [weight.numel() * weight.element_size() for weight in weights.values()]
    size = min(sum(sizes), max(_BUFFER_BYTES, *sizes))
    producers = []
    for gpu in range(gpus):
        pairs = ((name, weight.detach()) for name, weight in weights.items())
        uuid = str(torch.cuda.get_device_properties(gpu).uuid)
        producers.append(packed_ipc_producer(pairs, uuid, itemgetter(1), size))
    while True:
        chunks: list[Any] = []
        for gpu, producer in enumerate(producers):
            with torch.cuda.device(gpu):  # where the producer makes its buffer
                chunks.append(next(producer, None))
        first = chunks[0]
        if first is None:
            return
        yield {
            "names": first.names,
            "dtype_names": first.dtype_names,
            "shapes": first.shapes,
            "tensor_sizes": first.tensor_sizes,
            "ipc_handles": {uuid: handle for chunk in chunks for uuid, handle in chunk.ipc_handle.items()},
        }


def checked(weights: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """The weights that a model has, in its order; what else there is (a tied head, buffers) is left out.

    vLLM itself takes a refresh that lacks weights, with no more than a line in its log.

    Raises:
        SawyerError: a weight is missing or has another shape.
    """
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            raise SawyerError(f"the weights for the engine lack {name} of shape {tuple(shape)}")
    return {name: weights[name] for name in shapes}


def weight_shapes(folder: Path) -> dict[str, torch.Size]:
    """The shape of every weight of a model, by its name in transformers, from its config alone; of tied weights one.

    Raises:
        SawyerError: transformers does not know it as a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise SawyerError(f"transformers does not know which weights {folder} has: {reason(error)}") from error
    empty.tie_weights()
    return {name: weight.shape for name, weight in empty.named_parameters()}
