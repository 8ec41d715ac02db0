"""What `sawyer run` sets for its process, in a process of its own."""

import os
import subprocess
import sys

SCRIPT = """
import os
from sawyer import numerics
numerics.prepare()
import torch
torch.set_num_threads(2)
tiny = torch.full((1 << 20,), 1e-39)
print(int((tiny * 1.0).count_nonzero()), int((tiny.view(1024, 1024) @ torch.eye(1024)).count_nonzero()))
numerics.release()
print(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"])
"""


def run(**environment):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN")} | environment
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


def test_denormals_are_flushed_in_every_thread():
    assert run() == ["0", "0", "256"]


def test_the_users_own_setting_of_onednn_stays():
    assert run(ONEDNN_PRIMITIVE_CACHE_CAPACITY="7")[-1] == "7"
