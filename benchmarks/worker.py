"""One contender's turn, in a process of its own: `python -m benchmarks.worker JOB.json RESULT.json`.

A job names `contender` (sawyer; trl, hf, ctranslate2 or transformers; or peak for the machine's matrix multiplication),
`task` (dpo, reward, sft, online, ppo, rollout, scoring), `rows` (a file of token ids) and how many of them to take
(`limit`), and `model`, `precision`, `seed`, `threads`, `profile`. Every result has `peak_memory_mib` of the process.

Training: `batch`, `micro_batch`, `padding_free`, `token_budget`, `learning_rate`, `all_pairs` (ours learns of rankings
by the loss of all their pairs). The result has one entry an update in `step_seconds`, `losses` and `grad_norms`;
`values`, what the model said of each completion of the first update; `reference_seconds`; and, of ours, `step_flops`.

Generation (`rollout`), whose rows are prompts: `n` samples of each, `temperature`, `min_tokens`, `max_tokens`, and how
often (`repeats`); of ctranslate2 `layout`, `sequences` and `converted` (see `generators.py`); `alone`, what ours does
without a peer. The result has `seconds` and `tokens` of each repeat and the `completions` of the last; of sawyer and hf
`memory_bytes`, `needed_bytes` and `flops`.

Online preference optimisation (`online`), whose rows are prompts as conversations: as for training, and `tokens` of an
answer, `reward` (rule or model), `answers`, a file of answers to take instead of drawing them, or null, and of trl
`cache`; `contender` may be `weights`, which writes the models that all begin from (see `learners.py`). The result has
what training has, and one entry an update in `generate_seconds` and `answers`.

PPO, whose rows are prompts with completions, which take the place of rollouts where `given` is set: `policy`,
`reference` and `reward` (folders; the value model begins as the reward model), `n`, `tokens`, `epochs`, `updates`,
`kl`, `learning_rate`; `token_budget` of ours; of the peer `micro_batch`, `pad_id`, `never` (tokens that it does not
draw), and `pure` (all weights of TRL in bf16). The result has `update_seconds`, `rollout_seconds` and `response_tokens`
of every update, and, where rollouts are given, the advantages of each completion's tokens as `values`, and `losses` and
`grad_norms` of every step.

Scoring, whose rows are prompts with completions: `token_budget` of ours, `micro_batch` of transformers. The result has
`seconds` and, as `values`, the rewards of each prompt's completions.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any


def main(job_file: Path, result_file: Path) -> None:
    """Run the job in `job_file`."""
    warnings.filterwarnings("ignore")
    import torch

    from benchmarks import measure
    from sawyer.numerics import prepare

    job = json.loads(job_file.read_text())
    prepare()  # as `sawyer run` does before it begins; the peer gets the same process
    torch.set_num_threads(job["threads"])

    if job["contender"] == "peak":
        result = measure.matmul_peak(job["precision"])
    else:
        rows = json.loads(Path(job["rows"]).read_text())[: job["limit"]]
        side: Any
        ours = job["contender"] == "sawyer"
        if job["task"] == "ppo":
            side = importlib.import_module(f"benchmarks.ppo_{'ours' if ours else job['contender']}")
        elif job["task"] == "rollout":
            from benchmarks import generators as side
        elif job["task"] == "scoring":
            from benchmarks import scorers as side
        elif job["task"] == "online":
            from benchmarks import learners as side
        elif ours:
            from benchmarks import ours as side
        else:
            from benchmarks import peers as side
        result = measure.profiled(side.run, job, rows) if job["profile"] else side.run(job, rows)
        result["peak_memory_mib"] = measure.peak_memory_mib()
    result_file.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
