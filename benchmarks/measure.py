"""What is measured of a machine and a process, and how a contender gets a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (1024, 2048, 3072)
REPEATS = 4


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul_peak(precision: str) -> dict[str, Any]:
    """The fastest large square matrix product in `precision`, in floating-point operations a second."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best: dict[int, float] = {}
    for size in SIZES:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        torch.mm(a, b)
        for _ in range(REPEATS):
            began = time.perf_counter()
            torch.mm(a, b)
            best[size] = max(best.get(size, 0.0), 2 * size**3 / (time.perf_counter() - began))
    return {"flops_per_second": max(best.values()), "by_size": best}


def peak_memory_mib() -> float:
    """The most memory this process has held, in MiB.

    Linux's VmHWM is `ru_maxrss` of this program alone; `ru_maxrss` itself may still hold that of the process that
    started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def profiled(run: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """`run(*arguments)` under PyTorch's profiler; the result gets a table of the dearest operations as `profile`."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        result = run(*arguments)
    result["profile"] = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)
    return result


def in_own_process(job: dict[str, Any]) -> dict[str, Any]:
    """The result of a job done by `benchmarks.worker` in a fresh process, so that its peak memory is its own.

    The process runs the job's `python`; without that, this one's.

    Raises:
        RuntimeError: the process failed; the message ends with what it wrote to its standard error.
    """
    threads = str(job["threads"])
    quiet = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with tempfile.TemporaryDirectory() as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        job_file.write_text(json.dumps(job))
        done = subprocess.run(
            [job.get("python", sys.executable), "-m", "benchmarks.worker", str(job_file), str(result_file)],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **quiet},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            who = f"{job['contender']} (micro-batch {job['micro_batch']})"
            raise RuntimeError(f"{who} failed with code {done.returncode}:\n{done.stderr[-4000:]}")
        return json.loads(result_file.read_text())
