"""Floating-point behaviour that all heavy work wants."""

from __future__ import annotations

import ctypes
import sys


def prepare() -> None:
    """Call before the first tensor of a program; later calls do no harm but may come too late for some threads.

    Flushes denormal numbers to zero. Gradients and Adam's running squares of rarely seen tokens lie below 1e-38, where
    a CPU is up to a hundred times slower (a training step of 5 s took 58); numbers that small change no weight.
    Threads inherit the setting from the one that starts them, so it must come before PyTorch's thread pool.

    Keeps freed memory in the process. Activations come and go at every layer, and by default the C library returns
    them to the kernel each time, which then has to clear the same pages again.
    """
    import torch

    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            trim_threshold, mmap_threshold = -1, -3
            libc.mallopt(mmap_threshold, 1 << 30)
            libc.mallopt(trim_threshold, (1 << 31) - 1)
