"""Preference losses: pure functions of log-probs, one a pair, to be averaged by the caller.

Names: b beta, u the log-ratio log pi/ref of a completion, h = u_w - u_l, p a completion's mean log-prob a token,
s the sigmoid, e label smoothing. `registry` lists all of them with formula, source and what they need.

Shapes: P pairs, R rankings of K completions, S singly labelled completions.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from sawyer.losses.completions import Completions, Pairs

_LARGEST = 80.0  # of an exponent whose power float32 holds
Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


def dpo(pairs: Pairs, *, beta: float = 0.1, divergence: Divergence = "reverse_kl", alpha: float = 0.5) -> torch.Tensor:
    """-log s(b h): direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    With another divergence than the reverse KL, u becomes f'(pi/ref) (Wang et al. 2023, arXiv 2309.16240):
    forward KL -exp(-u), Jensen-Shannon log s(u), up to constants that cancel, alpha exp((a - 1) u) / (a - 1), where a
    is `alpha` (1 - a in the paper).
    """
    h_P = _slope(pairs.chosen.ratio_S, divergence, alpha) - _slope(pairs.rejected.ratio_S, divergence, alpha)
    return -F.logsigmoid(beta * h_P)


def _slope(u_S: torch.Tensor, divergence: Divergence, alpha: float) -> torch.Tensor:
    if divergence == "reverse_kl":
        return u_S
    if divergence == "forward_kl":
        return -torch.exp((-u_S).clamp_max(_LARGEST))
    if divergence == "js":
        return F.logsigmoid(u_S)
    if divergence != "alpha":
        raise ValueError(f"there is no divergence {divergence!r}: choose of {', '.join(get_args(Divergence))}")
    if alpha == 1:
        raise ValueError("the alpha-divergence at alpha 1 is the reverse KL: choose `reverse_kl`")
    return torch.exp(((alpha - 1) * u_S).clamp_max(_LARGEST)) / (alpha - 1)


def cdpo(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> torch.Tensor:
    """-(1 - e) log s(b h) - e log s(-b h): conservative DPO, for labels that are wrong at rate e (Mitchell 2023)."""
    logit_P = beta * pairs.h_P
    return -(1 - label_smoothing) * F.logsigmoid(logit_P) - label_smoothing * F.logsigmoid(-logit_P)


def robust(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> torch.Tensor:
    """[-(1 - e) log s(b h) + e log s(-b h)] / (1 - 2 e): an unbiased estimate of DPO's loss on the true labels where
    labels are flipped at rate e (Chowdhury et al. 2024, arXiv 2403.00409)."""
    logit_P = beta * pairs.h_P
    right_P, wrong_P = -F.logsigmoid(logit_P), -F.logsigmoid(-logit_P)
    return ((1 - label_smoothing) * right_P - label_smoothing * wrong_P) / (1 - 2 * label_smoothing)


def ipo(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """(h - 1 / (2 b))^2 on sums, as the paper has it (Azar et al. 2023, arXiv 2310.12036, equation 17)."""
    return (pairs.h_P - 1 / (2 * beta)) ** 2


def ipo_average(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """IPO on means a token, as TRL and HALOs have it."""
    return (pairs.chosen.mean_ratio_S - pairs.rejected.mean_ratio_S - 1 / (2 * beta)) ** 2


def hinge(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """max(0, 1 - b h): SLiC's loss on DPO's rewards (Liu et al. 2023, arXiv 2309.06657)."""
    return F.relu(1 - beta * pairs.h_P)


def slic_hf(pairs: Pairs, *, delta: float = 1.0, nll_weight: float = 0.1) -> torch.Tensor:
    """max(0, d - log pi(y_w) + log pi(y_l)) - l log pi(y_w) (Zhao et al. 2023, arXiv 2305.10425, equation 1)."""
    chosen_P, rejected_P = pairs.chosen.logp_S, pairs.rejected.logp_S
    return F.relu(delta - chosen_P + rejected_P) - nll_weight * chosen_P


def exo(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> torch.Tensor:
    """s(b h) [log s(b h) - log(1 - e)] + s(-b h) [log s(-b h) - log e]: the reverse KL from the policy's preference to
    the label's (Ji et al. 2024, arXiv 2402.00856)."""
    if not 0 < label_smoothing < 1:
        raise ValueError("exo needs a label smoothing above 0: its logarithm is taken")
    logit_P = beta * pairs.h_P
    right = logit_P.new_tensor(1 - label_smoothing).log()
    wrong = logit_P.new_tensor(label_smoothing).log()
    return torch.sigmoid(logit_P) * (F.logsigmoid(logit_P) - right) + torch.sigmoid(-logit_P) * (
        F.logsigmoid(-logit_P) - wrong
    )


def nca(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """-log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2, r = b u: pulls the chosen up by itself and not only against the
    rejected (Chen et al. 2024, arXiv 2402.05369, at K = 2)."""
    chosen_P, rejected_P = beta * pairs.chosen.ratio_S, beta * pairs.rejected.ratio_S
    return -F.logsigmoid(chosen_P) - 0.5 * F.logsigmoid(-chosen_P) - 0.5 * F.logsigmoid(-rejected_P)


def infonca(rankings: Completions, *, beta: float = 0.1, temperature: float = 1.0) -> torch.Tensor:
    """`[R]` -sum_k softmax(score / t)_k log softmax(b u)_k: the policy's rewards tell the K completions apart as their
    scores do (Chen et al. 2024, arXiv 2402.05369).

    Args:
        rankings: `[R, K]`, with scores.
        temperature: the paper's alpha; at 0 limit all weight is on the best.
    """
    target_R_K = torch.softmax(rankings.needed("score_S") / temperature, -1)
    return -(target_R_K * torch.log_softmax(beta * rankings.ratio_S, -1)).sum(-1)


def bco(pairs: Pairs, *, beta: float = 0.1, shift: float | torch.Tensor = 0.0) -> torch.Tensor:
    """-log s(r_w - d) - log s(-(r_l - d)), r = b u: each completion classified by itself (Jung et al. 2024, arXiv
    2404.04656).

    Args:
        shift: d, the mean reward; no gradient goes through it.
    """
    chosen_P, rejected_P = beta * pairs.chosen.ratio_S, beta * pairs.rejected.ratio_S
    return -F.logsigmoid(chosen_P - shift) - F.logsigmoid(shift - rejected_P)


def sppo_hard(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """(u_w - 1 / (2 b))^2 + (u_l + 1 / (2 b))^2: SPPO where the winner wins for certain, as in TRL (no half)."""
    target = 1 / (2 * beta)
    return (pairs.chosen.ratio_S - target) ** 2 + (pairs.rejected.ratio_S + target) ** 2


def sppo(pairs: Pairs, *, beta: float = 1e-3) -> torch.Tensor:
    """[(u_w - (P_w - 1/2) / b)^2 + (u_l - (P_l - 1/2) / b)^2] / 2, where P are the completions' scores, the
    probability of winning against the policy (Wu et al. 2024, arXiv 2405.00675)."""
    errors = [
        side.ratio_S - (side.needed("score_S") - 0.5) / beta for side in (pairs.chosen, pairs.rejected)
    ]  # fmt: skip
    return 0.5 * (errors[0] ** 2 + errors[1] ** 2)


def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """1 - s(b u_w) + s(b u_l): chosen up and rejected down, where chosen are better than the policy's own
    (D'Oosterlinck et al. 2024, arXiv 2408.06266)."""
    return 1 - torch.sigmoid(beta * pairs.chosen.ratio_S) + torch.sigmoid(beta * pairs.rejected.ratio_S)


def apo_down(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """s(b u_w) + 1 - s(b h): both down and the rejected further, where the policy's own are better than the chosen
    (D'Oosterlinck et al. 2024, arXiv 2408.06266)."""
    return torch.sigmoid(beta * pairs.chosen.ratio_S) + 1 - torch.sigmoid(beta * pairs.h_P)


def aot(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> torch.Tensor:
    """Alignment by optimal transport, paired (Melnyk et al. 2024, arXiv 2406.05882): the policy's margins
    log pi(y_w) - log pi(y_l) and the reference's, each sorted over the pairs, and DPO's loss between equal ranks."""
    policy_P = (pairs.chosen.logp_S - pairs.rejected.logp_S).sort(0).values
    reference_P = pairs.chosen.needed("reference_logp_S") - pairs.rejected.needed("reference_logp_S")
    return _smoothed(beta * (policy_P - reference_P.sort(0).values), label_smoothing)


def aot_unpaired(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> torch.Tensor:
    """AOT, unpaired: the log-ratios of the chosen and of the rejected, each sorted over the pairs,
    so that no completion need belong to another. TRL calls it `aot_unpaired`, and once called it `aot_pair`."""
    chosen_P, rejected_P = pairs.chosen.ratio_S.sort(0).values, pairs.rejected.ratio_S.sort(0).values
    return _smoothed(beta * (chosen_P - rejected_P), label_smoothing)


def _smoothed(logit_P: torch.Tensor, e: float) -> torch.Tensor:
    return -(1 - e) * F.logsigmoid(logit_P) - e * F.logsigmoid(-logit_P)


def rpo(pairs: Pairs, *, beta: float = 0.1, nll_weight: float = 1.0) -> torch.Tensor:
    """-log s(b h) - a p_w: DPO with the mean negative log-likelihood of the chosen (Pang et al. 2024, arXiv 2404.19733,
    equation 1)."""
    return dpo(pairs, beta=beta) - nll_weight * pairs.chosen.mean_logp_S


def cpo(pairs: Pairs, *, beta: float = 0.1, nll_weight: float = 1.0) -> torch.Tensor:
    """-log s(b (log pi(y_w) - log pi(y_l))) - a p_w: DPO with no reference (Xu et al. 2024, arXiv 2401.08417)."""
    margin_P = pairs.chosen.logp_S - pairs.rejected.logp_S
    return -F.logsigmoid(beta * margin_P) - nll_weight * pairs.chosen.mean_logp_S


def simpo(pairs: Pairs, *, beta: float = 2.0, gamma: float = 1.0) -> torch.Tensor:
    """-log s(b (p_w - p_l) - g): means a token as rewards, and a target margin (Meng et al. 2024, arXiv 2405.14734,
    equation 6; their gamma, which the released recipes give as a share of beta)."""
    return -F.logsigmoid(beta * (pairs.chosen.mean_logp_S - pairs.rejected.mean_logp_S) - gamma)


def orpo(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """-p_w - b log s(log odds_w - log odds_l), odds = exp(p) / (1 - exp(p)): instruction tuning and preference in one
    (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7; b is their lambda)."""
    chosen_P, rejected_P = pairs.chosen.mean_logp_S, pairs.rejected.mean_logp_S
    return -chosen_P - beta * F.logsigmoid(_log_odds(chosen_P) - _log_odds(rejected_P))


def _log_odds(mean_logp_P: torch.Tensor) -> torch.Tensor:
    below_zero_P = mean_logp_P.clamp_max(-1e-7)  # a certain completion would have infinite odds
    return mean_logp_P - torch.log(-torch.expm1(below_zero_P))


def kto(
    completions: Completions,
    desirable_S: torch.Tensor,
    *,
    beta: float = 0.1,
    baseline: float | torch.Tensor = 0.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """`[S]` l_D (1 - s(b (u - z))) for desirable completions, l_U (1 - s(b (z - u))) for others: Kahneman-Tversky
    optimisation, of completions that have a label and no rival (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8).

    Args:
        desirable_S: which completions are.
        baseline: z, the KL of policy to reference: max(0, mean u of prompts with completions that are not theirs); no
            gradient goes through it.
    """
    distance_S = beta * (completions.ratio_S - baseline)
    good_S = desirable_weight * (1 - torch.sigmoid(distance_S))
    bad_S = undesirable_weight * (1 - torch.sigmoid(-distance_S))
    return torch.where(desirable_S, good_S, bad_S)


def dpo_norm(pairs: Pairs, *, beta: float = 5.0) -> torch.Tensor:
    """-log s(b h) with means a token in place of sums (Lambert et al. 2024, arXiv 2411.15124)."""
    return -F.logsigmoid(beta * (pairs.chosen.mean_ratio_S - pairs.rejected.mean_ratio_S))


def wpo(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """min(1, exp(p_w + p_l)) times DPO's loss: pairs count as they would be drawn from the policy (Zhou et al. 2024,
    arXiv 2406.11827, without its normalisation by what sampling would give). No gradient goes through the
    weight."""
    weight_P = (pairs.chosen.mean_logp_S + pairs.rejected.mean_logp_S).detach().exp().clamp_max(1.0)
    return weight_P * dpo(pairs, beta=beta)


def wpo_normalised(pairs: Pairs, *, beta: float = 0.1) -> torch.Tensor:
    """WPO where a token's log-prob counts from log sum_v p(v)^2, so that what the policy itself draws weighs about 1
    however long or open it is (Zhou et al. 2024, equation 2, as in TRL)."""
    own = [
        (side.logp_S.detach() - side.needed("collision_S")) / side.tokens_S for side in (pairs.chosen, pairs.rejected)
    ]
    return (own[0] + own[1]).exp().clamp_max(1.0) * dpo(pairs, beta=beta)


def ld_dpo(pairs: Pairs, *, beta: float = 0.1, alpha: float = 0.5) -> torch.Tensor:
    """DPO's loss where the log-probs of what the longer completion has beyond the shorter one's length count `alpha`
    times: 1 is DPO, 0 compares equal lengths (Liu et al. 2024, arXiv 2409.06411)."""
    return dpo(Pairs(pairs.chosen.tail_scaled(alpha), pairs.rejected.tail_scaled(alpha)), beta=beta)


def dno(pairs: Pairs, *, beta: float = 0.1, eta: float = 1.0) -> torch.Tensor:
    """-q log s(b h) - (1 - q) log s(-b h), q = s((score_w - score_l) / eta): the contrastive step of direct Nash
    optimisation, whose scores are win rates (Rosset et al. 2024, arXiv 2404.03715, algorithm 1)."""
    q_P = torch.sigmoid((pairs.chosen.needed("score_S") - pairs.rejected.needed("score_S")) / eta)
    logit_P = beta * pairs.h_P
    return -q_P * F.logsigmoid(logit_P) - (1 - q_P) * F.logsigmoid(-logit_P)


def nll(pairs: Pairs) -> torch.Tensor:
    """-p_w: the mean negative log-likelihood of the chosen, to be added to another loss."""
    return -pairs.chosen.mean_logp_S
