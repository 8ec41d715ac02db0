"""What `sawyer run` sets for its process, in a process of its own."""

import subprocess
import sys

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
