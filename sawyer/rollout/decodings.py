"""Ways of decoding by name, for comparing models by more than one of them."""

from __future__ import annotations

from typing import Any

from sawyer.rollout.sampling import Sampling

GRID = ("greedy", "nucleus", "beam", "contrastive")
"""What `grid` stands for."""
DECODINGS: dict[str, dict[str, Any]] = {
    "sample": {},
    "greedy": {"temperature": 0.0},
    "nucleus": {"top_p": 0.95, "top_k": 50},
    "beam": {"temperature": 0.0, "num_beams": 5},
    "contrastive": {"temperature": 0.0, "penalty_alpha": 0.6, "top_k": 4},
}
"""By name, what is set: the model's own distribution; greedy search; nucleus sampling (Holtzman et al. 2020) as the
SAWYER paper has it; beam search with five beams; contrastive search (Su et al. 2022) at its authors' settings."""


def is_search(sampling: Sampling) -> bool:
    """Whether it finds one answer, the same whatever the seed."""
    return sampling.temperature == 0


def decoding(name: str, sampling: Sampling) -> Sampling:
    """The way of decoding of that name, with the limits and stops of `sampling`, and nothing else of it."""
    kept = {key: getattr(sampling, key) for key in ("max_tokens", "min_tokens", "stop", "stop_token_ids")}
    return Sampling(**kept, **DECODINGS[name])
