"""Instruction tuning on conversations of mixed length, loss on assistant tokens, against TRL's SFTTrainer."""

import sys

from benchmarks.contest import main

if __name__ == "__main__":
    sys.exit(main("sft"))
