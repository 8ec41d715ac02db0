"""A reward model against TRL's RewardTrainer: Bradley-Terry on pairs, or, with `--ranking K`, on rankings of K.

Of a ranking ours reads one tree, under Plackett-Luce; TRL reads its K (K - 1) / 2 pairs. The two losses differ, so ours
has a second turn with the loss of all pairs over the same tree (`sawyer-pairs`), whose gradients must equal TRL's. An
update takes `--batch` rankings on both sides; TRL's micro-batches are of pairs.
"""

import sys

from benchmarks.contest import main

if __name__ == "__main__":
    sys.exit(main("reward"))
