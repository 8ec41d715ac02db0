import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import toys

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import toys
from sawyer.pipeline import stage
from sawyer.pipeline.context import METRICS
stage._discovered = dict

def together(settings, context):
    import torch
    mine = torch.tensor([float(context.accelerator.process_index + 1)])
    total = context.accelerator.reduce(mine, "sum").item()
    context.log(total=total)
    context.say(f"together {total}")
    if context.is_main:
        (context.folder / "rows.json").write_text("[1]")
    return {"total": total}

def one_writes(function):
    def run(settings, context):
        return function(settings, context) if context.is_main else None
    return run

stages = [stage.Stage(s.kind, s.settings, one_writes(s.run), s.makes) for s in toys.TOYS if s.kind != "data"]
stages.append(stage.Stage("data", toys.DataSettings, together, makes="dataset"))
sys.argv[1:] = sys.argv[2:]
with stage.register(*stages):
    from sawyer.cli import main
    main()
"""


def launch(recipe, *arguments):
    """The command in two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", PROGRAM, str(Path(toys.__file__).parent), "run", str(recipe), *arguments]
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen(command, env=environment, cwd=recipe.parent, stdout=pipe, stderr=pipe, text=True)
        )
    said = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], said


@pytest.mark.slow
def test_two_processes_make_one_run_and_only_one_speaks(recipe_file, tmp_path):
    codes, said = launch(recipe_file, "--json")
    assert codes == [0, 0], said
    assert said[1][0] == ""
    assert "finished" not in said[1][1]
    assert json.loads(said[0][0])["stages"]["data"]["figures"] == {"total": 3.0}
    assert (tmp_path / "runs/toy/data/metrics.jsonl").read_text() == '{"total": 3.0}\n'

    codes, said = launch(recipe_file, "--set", "model=./none")
    assert codes == [2, 2], said
    assert said[0][1].splitlines()[-1].startswith("error: --set model: there is no model at ./none")
    assert "error:" not in said[1][1]


@pytest.mark.slow
def test_two_processes_run_several_seeds_and_only_one_puts_them_together(recipe_file, tmp_path):
    codes, said = launch(recipe_file, "--seeds", "2", "--json", "--out", "several")
    assert codes == [0, 0], said
    assert said[1][0] == ""
    assert json.loads(said[0][0])["seeds"] == [0, 1]
    for seed in (0, 1):
        figures = json.loads((tmp_path / f"several/seed-{seed}/summary.json").read_text())["stages"]["data"]["figures"]
        assert figures == {"total": 3.0}

    codes, said = launch(recipe_file, "--seeds", "2", "--out", "several/seed-0")
    assert codes == [2, 2], said
    assert "is a single run" in said[0][1]
