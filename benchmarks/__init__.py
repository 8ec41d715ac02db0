"""Speed and memory of Sawyer against its peers, on the same work and in the same numbers.

    python -m benchmarks.dpo --peer trl --precision bf16 --json dpo-bf16.json

`contest.py` tells the story of one benchmark of training: make the work, let the contenders take turns in processes of
their own, see that they computed the same thing, and only then compare their times. `ours.py` and `peers.py` are the
contenders. `scoring.py` with `scorers.py` and `rollout.py` with `generators.py` do the same for scoring and generation.
"""
