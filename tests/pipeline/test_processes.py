import json
import socket
from pathlib import Path

import pytest
import toys

from tests.nursery import Nursery

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


@pytest.fixture(scope="module")
def nurseries(tmp_path_factory):
    modules = ("accelerate", "matplotlib.figure", "sawyer.pipeline.report.over_seeds", "sawyer.pipeline.run", "torch")
    nurseries = [Nursery(tmp_path_factory.mktemp("nursery"), modules) for _ in range(2)]
    yield nurseries
    for nursery in nurseries:
        nursery.stop()


def launch(nurseries, recipe, *arguments):
    """The command in two processes, with the variables that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank, nursery in enumerate(nurseries):
        environment = {
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        words = (Path(toys.__file__).parent, "run", recipe, *arguments)
        processes.append(nursery.start(*words, cwd=recipe.parent, program=PROGRAM, environment=environment))
    codes = [process.wait() for process in processes]
    return codes, [(process.out, process.err) for process in processes]


@pytest.mark.slow
def test_two_processes_make_one_run_and_only_one_speaks(nurseries, recipe_file, tmp_path):
    codes, said = launch(nurseries, recipe_file, "--json")
    assert codes == [0, 0], said
    assert said[1][0] == ""
    assert "finished" not in said[1][1]
    assert json.loads(said[0][0])["stages"]["data"]["figures"] == {"total": 3.0}
    assert (tmp_path / "runs/toy/data/metrics.jsonl").read_text() == '{"total": 3.0}\n'

    codes, said = launch(nurseries, recipe_file, "--set", "model=./none")
    assert codes == [2, 2], said
    assert said[0][1].splitlines()[-1].startswith("error: --set model: there is no model at ./none")
    assert "error:" not in said[1][1]


@pytest.mark.slow
def test_two_processes_run_several_seeds_and_only_one_puts_them_together(nurseries, recipe_file, tmp_path):
    codes, said = launch(nurseries, recipe_file, "--seeds", "2", "--json", "--out", "several")
    assert codes == [0, 0], said
    assert said[1][0] == ""
    assert json.loads(said[0][0])["seeds"] == [0, 1]
    for seed in (0, 1):
        figures = json.loads((tmp_path / f"several/seed-{seed}/summary.json").read_text())["stages"]["data"]["figures"]
        assert figures == {"total": 3.0}

    codes, said = launch(nurseries, recipe_file, "--seeds", "2", "--out", "several/seed-0")
    assert codes == [2, 2], said
    assert "is a single run" in said[0][1]
