"""What `kernels.c` does, for CPUs: compiled once where there is a C compiler, not used where there is none.

Between its matrix products a decoder moves little data through many operations. In torch each is a pass over memory and
a meeting of all threads; in C a few passes do the same. `torch.compile` fuses the small operations as well, but not
attention over a cache, and was no faster than torch alone (docs/experiments.md).

The library lies in Sawyer's cache, under a hash of its source, compiler, flags and CPU. It is used only if
it shares the OpenMP of torch, so that there is one pool of threads; that is gcc's libgomp as a rule, and clang's libomp
would be a second. `SAWYER_NATIVE=0` turns it off.

Every function says what torch would do; its arguments are dense tensors on the CPU.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sawyer.models.embedded import cache_root

_SOURCE = Path(__file__).with_name("kernels.c")
_ARITHMETIC = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]  # or loops would not vectorise
_FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fopenmp", *_ARITHMETIC, "-shared", "-fPIC"]
_DEFINES: dict[torch.dtype, tuple[str, ...]] = {torch.bfloat16: ("-DBF16",), torch.float32: ()}
_COMPILE_SECONDS = 120
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Attend(ctypes.Structure):
    """What `attend` is given: the structure of the same name in `kernels.c`, field by field."""

    _fields_ = (
        *((name, _POINTER) for name in ("qkv", "cosine", "sine", "query_norm", "key_norm")),
        *((name, _POINTER) for name in ("keys", "values", "positions", "out")),
        *((name, _INT) for name in ("slot_stride", "head_stride", "rows", "heads", "kv_heads", "size", "window")),
        *((name, _FLOAT) for name in ("eps", "scaling")),
    )


_ARGUMENTS: dict[str, list[Any]] = {
    "rms_norm": [_POINTER] * 4 + [_INT] * 2 + [_FLOAT],
    "rms_norm_backward": [_POINTER] * 6 + [_INT] * 2,
    "add_norm": [_POINTER] * 4 + [_INT] * 2 + [_FLOAT],
    "gated_silu": [_POINTER] * 3 + [_INT] * 3,
    "gated_silu_backward": [_POINTER] * 4 + [_INT] * 2,
    "softmax_sums": [_POINTER] * 4 + [_INT] * 2,
    "log_softmax_backward": [_POINTER] * 5 + [_INT] * 2,
    "attend": [ctypes.POINTER(Attend)],
    "sample": [_POINTER] * 4 + [_INT] * 2 + [_FLOAT],
    "transposed": [_POINTER] * 2 + [_INT] * 2,
}
_ROWS = 64  # of `kernels.c`


@cache
def library(dtype: torch.dtype) -> Any:
    """The compiled functions for weights of `dtype`, or None where they cannot be had."""
    if os.environ.get("SAWYER_NATIVE") == "0" or dtype not in _DEFINES or sys.platform != "linux":
        return None
    torchs = _openmp("libtorch_cpu.so")
    if torchs is None or torchs != _openmp("libgomp.so.1"):  # gcc's; another is there already
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "gcc", "gcc", "cc", "clang"))), None)
    try:
        if compiler is None:
            return None
        path = _compiled(compiler, [*_FLAGS, *_DEFINES[dtype]])
        found = ctypes.CDLL(os.fspath(path))
        if _openmp(path) != torchs:
            raise OSError(f"{compiler} links another OpenMP than torch's, and two would fight for the cores: use gcc")
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"the kernels in C cannot be had, so torch does the same, slower: {error}", stacklevel=2)
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


def _openmp(library: str | Path) -> int | None:
    """The address of the OpenMP that a library calls, by which two can be told apart; None if the library is not
    loaded or calls none."""
    try:
        loaded = ctypes.CDLL(os.fspath(library), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return ctypes.cast(loaded.GOMP_parallel, _POINTER).value
    except (OSError, AttributeError):
        return None


def _compiled(compiler: str, flags: list[str]) -> Path:
    """The shared library, compiled now unless it is there.

    Raises:
        OSError: the cache cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_COMPILE_SECONDS, check=True).stdout
    key = sha256(_SOURCE.read_bytes() + version + " ".join(flags).encode() + _cpu().encode()).hexdigest()[:16]
    target = cache_root() / "native" / f"kernels-{key}.so"
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


def usable(*tensors: torch.Tensor) -> Any:
    """The compiled functions for tensors of one type, all dense and on the CPU; None where there are none."""
    first = tensors[0]
    if any(t.device.type != "cpu" or t.dtype != first.dtype or not t.is_contiguous() for t in tensors):
        return None
    return library(first.dtype)


def rms_norm(c: Any, x_N_W: torch.Tensor, weight_W: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight in the weight's type, and the float32 factors `[N]` of the rows of x.

    Args:
        c: `usable(weight_W)`.
        x_N_W: float32.
    """
    rows, width = x_N_W.shape
    out, scale_N = torch.empty(rows, width, dtype=weight_W.dtype), torch.empty(rows)
    c.rms_norm(*_pointers(x_N_W, weight_W, out, scale_N), rows, width, eps)
    return out, scale_N


def rms_norm_backward(
    c: Any, grad_N_W: torch.Tensor, x_N_W: torch.Tensor, weight_W: torch.Tensor, scale_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and of the weight, in float32."""
    rows, width = x_N_W.shape
    grad_x = torch.empty(rows, width)
    sums = torch.empty(-(-rows // _ROWS), width)
    c.rms_norm_backward(*_pointers(grad_N_W, x_N_W, weight_W, scale_N, grad_x, sums), rows, width)
    return grad_x, sums.sum(0)


def gated_silu(c: Any, gate_N_F: torch.Tensor, up_N_F: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; the two may be halves of one tensor."""
    rows, width = gate_N_F.shape
    out = torch.empty(rows, width, dtype=gate_N_F.dtype)
    c.gated_silu(*_pointers(gate_N_F, up_N_F, out), rows, width, gate_N_F.stride(0))
    return out


def gated_silu_backward(c: Any, gate_N_F: torch.Tensor, up_N_F: torch.Tensor, grad_N_F: torch.Tensor) -> torch.Tensor:
    """The gradient of gate from that of silu(gate) * up, in the place of which comes the gradient of up."""
    grad_gate = torch.empty_like(gate_N_F)
    c.gated_silu_backward(*_pointers(gate_N_F, up_N_F, grad_N_F, grad_gate), *gate_N_F.shape)
    return grad_gate


def softmax_sums(c: Any, logits_N_V: torch.Tensor, target_N: torch.Tensor, picked_N: torch.Tensor) -> torch.Tensor:
    """`[3, N]` float32: logsumexp over the rows x, the mean of x under softmax(x), and logsumexp of 2x, where the logit
    of column target (if there is such a column) is `picked`."""
    out = torch.empty(3, len(logits_N_V))
    c.softmax_sums(*_pointers(logits_N_V, target_N, picked_N, out), *logits_N_V.shape)
    return out


def log_softmax_backward(
    c: Any,
    logits_N_V: torch.Tensor,
    target_N: torch.Tensor,
    picked_N: torch.Tensor,
    normaliser_N: torch.Tensor,
    grad_N: torch.Tensor,
) -> torch.Tensor:
    """In the place of the logits, the gradient of grad * (logit of the target - normaliser); targets as above."""
    c.log_softmax_backward(*_pointers(logits_N_V, target_N, picked_N, normaliser_N, grad_N), *logits_N_V.shape)
    return logits_N_V


def transposed(c: Any, x_N_M: torch.Tensor) -> torch.Tensor:
    """The dense transpose `[M, N]`, which torch takes ten times as long for."""
    out = x_N_M.new_empty(x_N_M.shape[::-1])
    c.transposed(*_pointers(x_N_M, out), *x_N_M.shape)
    return out


def _pointers(*tensors: torch.Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
