"""How completions are drawn. No torch in here: recipes are checked without it."""

from __future__ import annotations

from pydantic import Field

from sawyer.settings import Settings


class Sampling(Settings):
    """How completions are drawn."""

    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits before the softmax; 0 is greedy."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: keep the smallest set of tokens whose probability reaches p."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest completion, in tokens, the end token included."""
    min_tokens: int = Field(default=0, ge=0)
    """The end token is forbidden before this many tokens."""
