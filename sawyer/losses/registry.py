"""Every preference loss by name: what it computes, where it comes from, and what it needs.

No torch in here: recipes are checked, and `sawyer losses` answers, without it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sawyer.errors import SawyerError

Data = Literal["pairs", "labelled", "rankings"]
DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")


@dataclass(frozen=True)
class Loss:
    """One loss.

    Attributes:
        name: of the function in `losses.preference`, too.
        formula: of one pair (completion, ranking).
        paper: author, year, arXiv.
        data: pairs, singly labelled completions, or rankings of K completions with scores.
        options: names and defaults.
        reference: whether it needs the log-probs of a reference.
        scores: whether it needs the completions' scores.
        couples: whether pairs enter each other's loss; then it is taken over each packed row, and `token_budget`
            decides which pairs meet.
    """

    name: str
    formula: str
    paper: str
    data: Data = "pairs"
    options: Mapping[str, Any] = field(default_factory=lambda: {"beta": 0.1})
    reference: bool = True
    scores: bool = False
    couples: bool = False

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself, of `losses.preference`."""
        return getattr(importlib.import_module("sawyer.losses.preference"), self.name)

    @property
    def needs(self) -> list[str]:
        """What a user has to give: `pairs`, `reference`, `scores`."""
        return [self.data, *["reference"] * self.reference, *["scores"] * self.scores]


_SMOOTHED = {"beta": 0.1, "label_smoothing": 0.1}
_ALL = (
    Loss(
        "dpo",
        "-log s(b h); u as f'(pi/ref) for another divergence",
        "Rafailov et al. 2023, 2305.18290; Wang et al. 2023, 2309.16240",
        options={"beta": 0.1, "divergence": "reverse_kl", "alpha": 0.5},
    ),
    Loss("cdpo", "-(1 - e) log s(b h) - e log s(-b h)", "Mitchell 2023", options=_SMOOTHED),
    Loss(
        "robust",
        "[-(1 - e) log s(b h) + e log s(-b h)] / (1 - 2 e)",
        "Chowdhury et al. 2024, 2403.00409",
        options=_SMOOTHED,
    ),
    Loss("ipo", "(h - 1 / (2 b))^2", "Azar et al. 2023, 2310.12036"),
    Loss("ipo_average", "(mean u_w - mean u_l - 1 / (2 b))^2", "Azar et al. 2023, 2310.12036, as in TRL"),
    Loss("hinge", "max(0, 1 - b h)", "Liu et al. 2023, 2309.06657"),
    Loss(
        "slic_hf",
        "max(0, d - log pi(w) + log pi(l)) - l log pi(w)",
        "Zhao et al. 2023, 2305.10425",
        options={"delta": 1.0, "nll_weight": 0.1},
        reference=False,
    ),
    Loss(
        "exo",
        "s(b h) [log s(b h) - log(1 - e)] + s(-b h) [log s(-b h) - log e]",
        "Ji et al. 2024, 2402.00856",
        options={"beta": 0.1, "label_smoothing": 1e-3},
    ),
    Loss("nca", "-log s(b u_w) - log s(-b u_w) / 2 - log s(-b u_l) / 2", "Chen et al. 2024, 2402.05369"),
    Loss(
        "infonca",
        "-sum_k softmax(score / t)_k log softmax(b u)_k",
        "Chen et al. 2024, 2402.05369",
        data="rankings",
        options={"beta": 0.1, "temperature": 1.0},
        scores=True,
    ),
    Loss(
        "bco",
        "-log s(b u_w - d) - log s(d - b u_l), d the mean reward of the row",
        "Jung et al. 2024, 2404.04656",
        couples=True,
    ),
    Loss("sppo_hard", "(u_w - 1 / (2 b))^2 + (u_l + 1 / (2 b))^2", "Wu et al. 2024, 2405.00675, as in TRL"),
    Loss(
        "sppo",
        "[(u_w - (P_w - 1/2) / b)^2 + (u_l - (P_l - 1/2) / b)^2] / 2",
        "Wu et al. 2024, 2405.00675",
        options={"beta": 1e-3},
        scores=True,
    ),
    Loss("apo_zero", "1 - s(b u_w) + s(b u_l)", "D'Oosterlinck et al. 2024, 2408.06266"),
    Loss("apo_down", "s(b u_w) + 1 - s(b h)", "D'Oosterlinck et al. 2024, 2408.06266"),
    Loss(
        "aot",
        "-log s(b (sorted pi margins - sorted ref margins))",
        "Melnyk et al. 2024, 2406.05882",
        options={"beta": 0.1, "label_smoothing": 0.0},
        couples=True,
    ),
    Loss(
        "aot_unpaired",
        "-log s(b (sorted u_w - sorted u_l))",
        "Melnyk et al. 2024, 2406.05882",
        options={"beta": 0.1, "label_smoothing": 0.0},
        couples=True,
    ),
    Loss(
        "rpo",
        "-log s(b h) - a p_w",
        "Pang et al. 2024, 2404.19733",
        options={"beta": 0.1, "nll_weight": 1.0},
    ),
    Loss(
        "cpo",
        "-log s(b (log pi(w) - log pi(l))) - a p_w",
        "Xu et al. 2024, 2401.08417",
        options={"beta": 0.1, "nll_weight": 1.0},
        reference=False,
    ),
    Loss(
        "simpo",
        "-log s(b (p_w - p_l) - g)",
        "Meng et al. 2024, 2405.14734",
        options={"beta": 2.0, "gamma": 1.0},
        reference=False,
    ),
    Loss("orpo", "-p_w - b log s(log odds_w - log odds_l)", "Hong et al. 2024, 2403.07691", reference=False),
    Loss(
        "kto",
        "l_D (1 - s(b (u - z))) if desirable, else l_U (1 - s(b (z - u)))",
        "Ethayarajh et al. 2024, 2402.01306",
        data="labelled",
        options={"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        couples=True,
    ),
    Loss("dpo_norm", "-log s(b (mean u_w - mean u_l))", "Lambert et al. 2024, 2411.15124", options={"beta": 5.0}),
    Loss("wpo", "-min(1, exp(p_w + p_l)) log s(b h)", "Zhou et al. 2024, 2406.11827"),
    Loss(
        "wpo_normalised",
        "-min(1, exp(p_w - c_w + p_l - c_l)) log s(b h), c the mean log sum_v p(v)^2 a token",
        "Zhou et al. 2024, 2406.11827, equation 2, as in TRL",
    ),
    Loss(
        "ld_dpo",
        "-log s(b h), tokens beyond the shorter length times a",
        "Liu et al. 2024, 2409.06411",
        options={"beta": 0.1, "alpha": 0.5},
    ),
    Loss(
        "dno",
        "-q log s(b h) - (1 - q) log s(-b h), q = s((P_w - P_l) / t)",
        "Rosset et al. 2024, 2404.03715",
        options={"beta": 0.1, "eta": 1.0},
        scores=True,
    ),
    Loss("nll", "-p_w", "to be added to another loss", options={}, reference=False),
)
LOSSES: Mapping[str, Loss] = {loss.name: loss for loss in _ALL}


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        SawyerError: there is none.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        raise SawyerError(
            f"there is no loss called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ": see `sawyer losses`")
        )
    return LOSSES[name]


def check_options(loss: Loss, options: Mapping[str, Any]) -> None:
    """Raise SawyerError where a loss does not take one of these options, or not with this value."""
    for name, value in options.items():
        if name not in loss.options:
            takes = ", ".join(loss.options) or "no options"
            raise SawyerError(f"the loss {loss.name} has no option {name!r}; it takes {takes}")
        if name == "divergence":
            if value not in DIVERGENCES:
                raise SawyerError(f"there is no divergence {value!r}: choose of {', '.join(DIVERGENCES)}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SawyerError(f"the option {name} of the loss {loss.name} must be a number, it is {value!r}")
        elif (problem := _outside(loss.name, name, value)) is not None:
            raise SawyerError(f"the option {name} of the loss {loss.name} must be {problem}, it is {value:g}")


def _outside(loss: str, option: str, value: float) -> str | None:
    """What an option must be and is not."""
    if option in ("beta", "eta", "temperature"):
        return None if value > 0 else "above 0"
    if option == "label_smoothing":
        if loss == "exo":
            return None if 0 < value < 0.5 else "above 0 and below 0.5"
        return None if 0 <= value < 0.5 else "at least 0 and below 0.5"
    if option == "alpha" and loss == "ld_dpo":
        return None if 0 <= value <= 1 else "from 0 to 1"
    if option == "alpha":
        return None if value != 1 else "another number than 1, where the divergence is `reverse_kl`"
    return None if value >= 0 else "at least 0"
