"""All benchmarks in both precisions, each with its figures in `benchmarks/results/`.

Arguments go to each of them: `python -m benchmarks --pairs 64`. Takes about an hour on two cores.
"""

import sys
from pathlib import Path

from benchmarks.contest import main

RESULTS = Path(__file__).parent / "results"


def run_all(arguments: list[str]) -> int:
    """The worst exit code of all."""
    worst = 0
    for task in ("dpo", "reward", "sft"):
        for precision in ("fp32", "bf16"):
            print(f"\nbenchmarks.{task} in {precision}", flush=True)
            where = ["--precision", precision, "--json", str(RESULTS / f"{task}-{precision}.json")]
            code = main(task, [*arguments, *where])
            if code == 2:
                return code
            worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(run_all(sys.argv[1:]))
