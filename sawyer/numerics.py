"""Floating-point behaviour that all heavy work wants."""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def prepare() -> None:
    """Call before the first tensor of a program, as `sawyer run` does; it changes the whole process, so that no library
    function does it by itself. Later calls do no harm but may come too late for some threads.

    Flushes denormal numbers to zero. Gradients and Adam's running squares of rarely seen tokens lie below 1e-38, where
    a CPU is up to a hundred times slower (a training step of 5 s took 58); numbers that small change no weight.
    Threads inherit the setting from the one that starts them, so it must come before PyTorch's thread pool.

    Keeps freed memory of the size of activations in the process. They come and go at every layer, and by default the C
    library returns them to the kernel each time, which then has to clear the same pages again. Larger blocks, such as
    the gradient of an embedding, still come from the kernel and go back to it.
    """
    import torch

    torch.set_flush_denormal(True)
    libc = _glibc()
    if libc is not None:
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 64 << 20)
        libc.mallopt(trim_threshold, 512 << 20)


def release() -> None:
    """Collect garbage (models hold reference cycles) and give the memory that is free back to the system."""
    gc.collect()
    trim()


@contextmanager
def settled() -> Iterator[Callable[[], None]]:
    """Calling what it yields leaves all there is out of the collections of garbage to come, until the end of the block.

    Each walks through every object, those of modules too: 0.2 s where transformers is loaded. Call it between two
    stages, when no model is held. Does nothing where somebody else has settled things already, by `gc.freeze`.
    """
    ours = gc.get_freeze_count() == 0
    try:
        yield gc.freeze if ours else lambda: None
    finally:
        if ours:
            gc.unfreeze()


def trim() -> None:
    """Give the memory that is free back to the system, pages between used ones too."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def lazy_zeros(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Zeros of the type and on the device of `like`. On a CPU they take memory where they are written to, page by page,
    and give it back to the system when nobody holds them any longer."""
    import torch

    if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS") or 0 in shape:
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(*shape)


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None  # musl has none
