"""Online preference optimisation, a step at a time: answer, compare, learn, with the weights of the step before.

    for step = 1 .. T:
        answer the next prompts n times each with the current policy
        score the answers; take the best and the worst of each prompt as a pair
        one update on the pairs, against pi_0

With two answers this is OAIF (Guo et al. 2024, arXiv 2402.04792), whatever gives the feedback. Optimism adds a term
that pushes down what the reference would say, so that the policy looks elsewhere:

    xpo    the pair is one answer of the policy and one of the reference; + alpha log pi(the reference's)
           (Xie et al. 2024, arXiv 2405.21046, algorithm 1)
    selm   + alpha beta log pi(an answer of the reference) (Zhang et al. 2024, arXiv 2405.19332)
    vpo    the same term, from maximising the value under the reward's uncertainty (Cen et al. 2024, arXiv 2405.19320)

Nash-MD (Munos et al. 2023, arXiv 2312.00886) has no pairs. It seeks the answer that no other beats:

    for step = 1 .. T:
        y ~ the policy; y' ~ the policy and the reference mixed, token by token
        P = the probability that y beats y'
        one update along (P - 1/2 - beta log pi/ref(y)) grad log pi(y)

Feedback that compares two answers, a preference model or a judge, is asked for every two answers of a prompt; a score
is then the share of games won. SPPO's scores are that of any feedback, a draw against itself included.

With `overlap` the answers of the next update are drawn while the present one trains, and so by the weights before it
(Noukhovitch et al. 2024, arXiv 2410.18252, who find online DPO the most robust to this).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sawyer.settings import Settings

ALPHA = {"xpo": 1e-5, "selm": 1e-3, "vpo": 1e-2}


class NashSettings(Settings):
    """Nash-MD, in place of a loss of pairs."""

    mixture: float = Field(default=0.5, ge=0, le=1)
    """The opponent: 0 is the policy itself, 1 the reference."""
    beta: float = Field(default=0.1, ge=0)
    """The pull to the reference; the paper's tau."""


class OptimismSettings(Settings):
    """What drives the policy away from the reference's answers."""

    kind: Literal["xpo", "selm", "vpo"]
    """Whose term."""
    alpha: float | None = Field(default=None, gt=0)
    """Its weight; 1e-5, 1e-3 and 1e-2 unless it is given."""

    def weight(self, beta: float) -> float:
        """What the log-prob of a reference's answer is multiplied by."""
        alpha = ALPHA[self.kind] if self.alpha is None else self.alpha
        return alpha if self.kind == "xpo" else alpha * beta
