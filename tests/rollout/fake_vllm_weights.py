"""How vLLM 0.33.0 takes new weights (`fake_vllm`): workers, each with weights and a GPU's memory of its own."""

import dataclasses
from typing import Any

import torch
from transformers import AutoModelForCausalLM

MEMORY: dict[tuple[str, int], torch.Tensor] = {}
"""What lies in the memory of GPUs that is shared between processes, by the handle (GPU, number)."""

_here = [0]
"""The current GPU."""


@dataclasses.dataclass
class IPCWeightTransferUpdateInfo:
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    ipc_handles: Any = None
    ipc_handles_pickled: str | None = None
    tensor_sizes: list[int] | None = None


@dataclasses.dataclass
class PackedIpcChunk:
    names: list[str]
    shapes: list[list[int]]
    dtype_names: list[str]
    tensor_sizes: list[int]
    ipc_handle: dict[str, tuple]


def packed_ipc_producer(iterator, gpu_uuid, post_iter_func, buffer_size_bytes=2**30):
    """As vLLM's: one buffer on the current GPU, written again for every chunk."""
    handle = (f"GPU-{_here[0]}", len(MEMORY))
    MEMORY[handle] = torch.zeros(buffer_size_bytes, dtype=torch.uint8)
    chunk: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def flush():
        sizes = [len(flat) for _, _, flat in chunk]
        MEMORY[handle][: sum(sizes)] = torch.cat([flat for _, _, flat in chunk])
        names, tensors = [name for name, _, _ in chunk], [tensor for _, tensor, _ in chunk]
        dtypes = [str(tensor.dtype).split(".")[-1] for tensor in tensors]
        return PackedIpcChunk(names, [list(t.shape) for t in tensors], dtypes, sizes, {gpu_uuid: handle})

    for name, tensor in iterator:
        flat = post_iter_func((name, tensor)).contiguous().view(-1).view(torch.uint8)
        if len(flat) > buffer_size_bytes:
            raise ValueError(f"Tensor '{name}' has size {len(flat)} bytes")
        if chunk and sum(len(f) for _, _, f in chunk) + len(flat) > buffer_size_bytes:
            yield flush()
            chunk.clear()
        chunk.append((name, tensor, flat))
    yield flush()


class Worker:
    """One GPU's copy of the model, and what weight transfer asks of it."""

    def __init__(self, model: str, rank: int, backend: str):
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.gpu, self.backend = f"GPU-{rank}", backend
        self.packed, self.active, self.chunks = False, False, 0

    def update_weights(self, update_info: dict) -> None:
        if not self.active:
            raise RuntimeError("start_weight_update must be called before update_weights.")
        info = IPCWeightTransferUpdateInfo(**update_info)
        if not self.packed or self.gpu not in info.ipc_handles or info.tensor_sizes is None:
            raise ValueError(f"IPC handle not found for GPU UUID {self.gpu}.")
        handle = info.ipc_handles[self.gpu]
        if handle[0] != self.gpu:
            raise RuntimeError("a buffer of another GPU cannot be opened here")
        packed = MEMORY[handle][: sum(info.tensor_sizes)].split(info.tensor_sizes)
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, dtype, shape, part in zip(info.names, info.dtype_names, info.shapes, packed, strict=True):
                own[name].copy_(part.clone().view(getattr(torch, dtype)).view(shape))
        self.chunks += 1


class Device:
    """`torch.cuda.device` of the fake GPUs."""

    def __init__(self, index: int):
        self.index, self.before = index, 0

    def __enter__(self):
        self.before, _here[0] = _here[0], self.index

    def __exit__(self, *error):
        _here[0] = self.before
