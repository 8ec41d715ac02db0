"""What a sequence's randomness is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def sequence_key(seed: int, prompt: Sequence[int] | np.ndarray, sample: int) -> bytes:
    """16 bytes, others for every seed, prompt (its tokens) and sample number, whatever else is generated beside it."""
    ids = np.asarray(prompt, dtype=np.int64)
    return hashlib.blake2b(f"{seed} {sample} ".encode() + ids.tobytes(), digest_size=16).digest()
