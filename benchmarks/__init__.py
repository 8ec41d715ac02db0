"""Speed and memory of Sawyer's trainers against TRL's, on the same batches and in the same numbers.

    python -m benchmarks.dpo --peer trl --precision bf16 --json dpo-bf16.json

`contest.py` tells the story of one benchmark: make the work, let the contenders take turns in processes of their own,
see that they computed the same thing, and only then compare their times. `ours.py` and `peers.py` are the contenders.
"""
