"""What `sawyer run` sets for its process, in a process of its own."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch

from sawyer.numerics import lazy_zeros, release, settled

SCRIPT = """
from sawyer import numerics
numerics.prepare()
import torch
torch.set_num_threads(2)
tiny = torch.full((1 << 20,), 1e-39)
print(int((tiny * 1.0).count_nonzero()), int((tiny.view(1024, 1024) @ torch.eye(1024)).count_nonzero()))
numerics.release()
"""


def test_denormals_are_flushed_in_every_thread():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


LAZY = """
from pathlib import Path
import torch
from sawyer.numerics import lazy_zeros
def mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if "VmRSS" in line) / 1024
like = torch.ones(1, dtype=torch.bfloat16)
small = lazy_zeros((3, 2), like)
small[1] = 1
right = small.tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]] and small.dtype == torch.bfloat16
before = mib()
zeros = lazy_zeros((64, 1 << 20), like)
made = mib()
zeros[:8] = 1
written = mib()
del zeros
print(right, made - before < 4, 12 < written - made < 32, mib() < written - 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux tells it")
def test_lazy_zeros_take_memory_where_they_are_written_to_and_give_it_back():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4


def test_lazy_zeros_of_no_size():
    assert lazy_zeros((3, 0, 2), torch.ones(1)).shape == (3, 0, 2)


def test_garbage_from_before_is_collected_after_and_garbage_within_at_once():
    class Ring:
        def __init__(self):
            self.me = self

    gc.collect()
    gc.unfreeze()
    with settled() as settle:
        before = weakref.ref(Ring())
        settle()
        within = weakref.ref(Ring())
        release()
        assert before() is not None
        assert within() is None
        with settled() as again:
            again()
        assert gc.get_freeze_count() > 0, "not the outer one's to thaw"
    release()
    assert before() is None
    assert gc.get_freeze_count() == 0
    gc.freeze()  # as the other tests of this module have it
