"""A Bradley-Terry reward model on pairs against TRL's RewardTrainer."""

import sys

from benchmarks.contest import main

if __name__ == "__main__":
    sys.exit(main("reward"))
