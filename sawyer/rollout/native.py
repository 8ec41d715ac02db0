"""The steps of `decode_ops` in C, for CPUs: compiled once where there is a C compiler, not used where there is none.

A decoding step moves little data through many operations. In torch each is a pass over memory and a meeting of all
threads, and attention over a cache is a batch of tiny matrix products, at a third of the memory's speed. In C a step is
four passes a layer. `torch.compile` fuses the small operations as well, but not attention, and was no faster than torch
alone (docs/experiments.md).

The library lies in Sawyer's cache, under a hash of its source, compiler, flags and CPU. It shares the OpenMP runtime
that torch has loaded, so that there is one pool of threads. `SAWYER_NATIVE=0` turns it off.

Legend: as in `decode_ops`; B sequences, V vocabulary.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sawyer.models.embedded import cache_root
from sawyer.models.lean import norm_eps
from sawyer.rollout.decode_ops import Attention, TorchOps
from sawyer.rollout.kv_cache import KVCache

_SOURCE = Path(__file__).with_name("decode_kernels.c")
_ARITHMETIC = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]  # or loops would not vectorise
_FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fopenmp", *_ARITHMETIC, "-shared", "-fPIC"]
_DEFINES: dict[torch.dtype, tuple[str, ...]] = {torch.bfloat16: ("-DBF16",), torch.float32: ()}
_COMPILE_SECONDS = 120
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "add_norm": [_POINTER] * 4 + [_INT] * 2 + [_FLOAT],
    "gated_silu": [_POINTER] * 2 + [_INT] * 2,
    "attend": [_POINTER] * 5 + [_FLOAT] + [_POINTER] * 2 + [_INT] * 2 + [_POINTER] * 2 + [_INT] * 4 + [_FLOAT, _INT],
    "sample": [_POINTER] * 4 + [_INT] * 2 + [_FLOAT],
}


@cache
def library(dtype: torch.dtype) -> Any:
    """The compiled functions for weights of `dtype`, or None where they cannot be had."""
    if os.environ.get("SAWYER_NATIVE") == "0" or dtype not in _DEFINES or sys.platform != "linux":
        return None
    maps = Path("/proc/self/maps")
    if (
        not maps.exists() or "libgomp" not in maps.read_text()
    ):  # torch has another OpenMP: two would fight for the cores
        return None
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    try:
        if compiler is None:
            return None
        found = ctypes.CDLL(str(_compiled(compiler, [*_FLAGS, *_DEFINES[dtype]])))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


def _compiled(compiler: str, flags: list[str]) -> Path:
    """The shared library, compiled now unless it is there.

    Raises:
        OSError: the cache cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_COMPILE_SECONDS, check=True).stdout
    key = sha256(_SOURCE.read_bytes() + version + " ".join(flags).encode() + _cpu().encode()).hexdigest()[:16]
    target = cache_root() / "native" / f"decode-{key}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, target.name)
            subprocess.run(
                [compiler, *flags, os.fspath(_SOURCE), "-o", os.fspath(made), "-lm"],
                capture_output=True, timeout=_COMPILE_SECONDS, check=True,
            )  # fmt: skip
            os.replace(made, target)
    return target


def _cpu() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return platform.machine() + "".join(sorted(set(flags)))


class NativeOps:
    """The `Ops` in C. A prefill's attention is torch's."""

    def __init__(self, functions: Any) -> None:
        """
        Args:
            functions: `library(...)` of the weights' type.
        """
        self._c = functions
        self._torch = TorchOps()

    def add_norm(self, stream_N_W: torch.Tensor, added_N_W: torch.Tensor | None, norm: Any) -> torch.Tensor:
        """See `Ops`."""
        weight = norm.weight
        out = torch.empty(stream_N_W.shape, dtype=weight.dtype)
        added = 0 if added_N_W is None else added_N_W.data_ptr()
        rows, width = stream_N_W.shape
        self._c.add_norm(
            stream_N_W.data_ptr(), added, weight.data_ptr(), out.data_ptr(), rows, width, norm_eps(norm)
        )  # fmt: skip
        return out

    def gated_silu(self, gate_up_N_2F: torch.Tensor) -> torch.Tensor:
        """See `Ops`."""
        rows, width = gate_up_N_2F.shape[0], gate_up_N_2F.shape[1] // 2
        out = gate_up_N_2F.new_empty(rows, width)
        self._c.gated_silu(gate_up_N_2F.data_ptr(), out.data_ptr(), rows, width)
        return out

    def attend(
        self, qkv_N_X: torch.Tensor, cos_N_D: torch.Tensor, sin_N_D: torch.Tensor, how: Attention, cache: KVCache
    ) -> torch.Tensor:
        """See `Ops`."""
        if not cache.decoding:
            return self._torch.attend(qkv_N_X, cos_N_D, sin_N_D, how, cache)
        keys, values = cache.layer(how.layer, how.kv_heads, (how.size, how.size), qkv_N_X)
        rows = len(cos_N_D)
        out = qkv_N_X.new_zeros(len(qkv_N_X), how.heads * how.size)
        norms, eps = (0, 0), 0.0
        if how.head_norms is not None:
            query_norm, key_norm = how.head_norms
            norms, eps = (query_norm.weight.data_ptr(), key_norm.weight.data_ptr()), norm_eps(query_norm)  # type: ignore[operator]
        self._c.attend(
            qkv_N_X.data_ptr(), cos_N_D.data_ptr(), sin_N_D.data_ptr(), *norms, eps, keys.data_ptr(), values.data_ptr(),
            keys.stride(0), keys.stride(1), cache.position_A.data_ptr(), out.data_ptr(), rows, how.heads, how.kv_heads,
            how.size, how.scaling, how.window or 0,
        )  # fmt: skip
        return out


def sample(
    logits_B_V: torch.Tensor, temperature: float, uniform_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`decoding.sample` of logits / temperature, in two passes over them; None where there is no library for it."""
    found = library(logits_B_V.dtype) if logits_B_V.device.type == "cpu" else None
    if found is None:
        return None
    logits_B_V, uniform_B = logits_B_V.contiguous(), uniform_B.contiguous()
    batch, vocabulary = logits_B_V.shape
    token_B, logp_B = torch.empty(batch, dtype=torch.int64), torch.empty(batch)
    pointers = [tensor.data_ptr() for tensor in (logits_B_V, uniform_B, token_B, logp_B)]
    found.sample(*pointers, batch, vocabulary, temperature)
    return token_B, logp_B
