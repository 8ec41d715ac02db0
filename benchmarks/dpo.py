"""DPO on pairs against TRL's DPOTrainer.

The reference log-probs, which both sides compute once before training, are timed apart.
"""

import sys

from benchmarks.contest import main

if __name__ == "__main__":
    sys.exit(main("dpo"))
