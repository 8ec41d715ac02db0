"""Advantages, whitening and adaptive KL against TRL, on small inputs.

Advantages and whitening are what `trl.experimental.ppo.PPOTrainer` of TRL 1.12.0, the newest with a PPO trainer,
computed in one update whose log-probs, values and scores were prescribed: the arguments and results of its
`masked_whiten`. Its KL coefficient is fixed; the adaptive one is `trl.trainer.utils.AdaptiveKLController` of 0.11.4.

The two mean the same where all answers have the most tokens allowed. Of an answer that ends earlier TRL puts the score
on the position after its end token and reads one more value there, from a padding token; Sawyer puts it on the end
token.
"""

import pytest
import torch

from sawyer.losses import kl
from sawyer.methods.advantages import gae, token_rewards, whiten
from sawyer.methods.kl_control import KLControl, KLSettings

LOGP = [[-1.0, -0.5, -2.0, -0.25, -1.5], [-0.75, -1.25, -0.5, -3.0, -0.1], [-2.5, -0.4, -0.6, -1.1, -0.9]]
REFERENCE = [[-1.2, -0.7, -1.5, -0.5, -1.0], [-0.5, -1.5, -1.0, -2.0, -0.3], [-2.0, -0.9, -0.6, -1.6, -0.8]]
VALUE = [[0.1, 0.2, -0.3, 0.4, 0.5], [-0.2, 0.0, 0.3, 0.1, -0.4], [0.6, 0.5, 0.4, 0.3, 0.2]]
SCORE = [1.5, -0.5, 0.25]

K1 = {
    "estimator": "k1", "coefficient": 0.05, "gamma": 1.0, "gae_lambda": 0.95,
    "advantages": [
        [1.1697015762329102, 1.1365280151367188, 1.7331874370574951, 1.0612499713897705, 1.024999976158142],
        [-0.19285190105438232, -0.42668622732162476, -0.7517750263214111, -0.5544999837875366, -0.10999998450279236],
        [-0.3463740646839142, -0.2856568694114685, -0.16911251842975616, -0.072750024497509, 0.05499999225139618],
    ],
    "whitened": [
        [1.2234777212142944, 1.1808279752731323, 1.9479261636734009, 1.0840463638305664, 1.037441372871399],
        [-0.528296172618866, -0.8289264440536499, -1.2468785047531128, -0.993250846862793, -0.4217771589756012],
        [-0.725672721862793, -0.6476113200187683, -0.49777546525001526, -0.3738865554332733, -0.20964409410953522],
    ],
}  # fmt: skip
K3 = {
    "estimator": "k3", "coefficient": 0.2, "gamma": 0.98, "gae_lambda": 0.9,
    "advantages": [
        [0.8133914470672607, 0.8176162838935852, 1.4913406372070312, 0.9400054216384888, 0.9702557325363159],
        [-0.22521866858005524, -0.47439178824424744, -0.864661693572998, -0.7271605134010315, -0.10374614596366882],
        [-0.39259588718414307, -0.28667986392974854, -0.1784282922744751, -0.08211827278137207, 0.048965826630592346],
    ],
    "whitened": [
        [0.9845113754272461, 0.9904793500900269, 1.9421777725219727, 1.163365364074707, 1.2060967683792114],
        [-0.48262229561805725, -0.8346025943756104, -1.3858951330184937, -1.1916619539260864, -0.3110310137271881],
        [-0.7190582156181335, -0.5694419741630554, -0.41652652621269226, -0.28047963976860046, -0.09531112760305405],
    ],
}  # fmt: skip
SHORTER = {
    "tokens": [3, 5, 5],
    "ended": [True, True, False],
    "missing_eos_penalty": 1.0,
    "advantages": [
        [1.2029249668121338, 1.1714999675750732, 1.7699999809265137, 1.100000023841858, 0.0],
        [-0.19285190105438232, -0.42668622732162476, -0.7517750263214111, -0.5544999837875366, -0.10999998450279236],
        [-1.1608803272247314, -1.1430318355560303, -1.0716124773025513, -1.0227500200271606, -0.9449999928474426],
    ],
}
"""As `K1`, where the first answer ends with its third token and the last, which does not end, is penalised."""


def flat(rows, lengths=(5, 5, 5)):
    return torch.tensor([value for row, length in zip(rows, lengths, strict=True) for value in row[:length]])


def estimated(case, lengths=(5, 5, 5), score=SCORE):
    index_N = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    kl_N = kl.ESTIMATORS[case["estimator"]](flat(LOGP, lengths), flat(REFERENCE, lengths))
    reward_N = token_rewards(torch.tensor(score), index_N, kl_N, case["coefficient"])
    return gae(reward_N, flat(VALUE, lengths), index_N, gamma=case["gamma"], gae_lambda=case["gae_lambda"])


@pytest.mark.parametrize("case", [K1, K3], ids=["k1", "k3"])
def test_advantages_and_their_whitening_are_those_of_trl(case):
    advantage_N = estimated(case)
    assert torch.allclose(advantage_N, flat(case["advantages"]), atol=1e-6)
    assert torch.allclose(whiten(advantage_N), flat(case["whitened"]), atol=1e-5)


def test_the_score_of_a_shorter_answer_is_on_its_end_token_and_in_trl_one_later():
    lengths, score = SHORTER["tokens"], [1.5, -0.5, 0.25 - SHORTER["missing_eos_penalty"]]
    ours, theirs = estimated(K1, lengths, score), flat(SHORTER["advantages"], lengths)
    assert torch.allclose(ours[3:], theirs[3:], atol=1e-6)  # answers of full length, with the penalty or without
    assert not torch.allclose(ours[:3], theirs[:3], atol=1e-2)
    index_N = torch.zeros(4, dtype=torch.long)
    later = token_rewards(torch.tensor([1.5]), index_N, torch.tensor([0.2, 0.2, -0.5, 0.0]), 0.05)
    one_more = gae(later, torch.tensor(VALUE[0][:4]), index_N, gamma=1.0, gae_lambda=0.95)
    assert torch.allclose(one_more, torch.tensor(SHORTER["advantages"][0][:4]), atol=1e-6)


def test_whitening_is_that_of_trl():
    whitened = [
        -0.2575814425945282, -1.1848745346069336, 0.6697116494178772, 1.597004771232605, -0.7212280035018921,
        -0.10303258150815964,
    ]  # fmt: skip
    assert whiten(torch.tensor([0.5, -1.0, 2.0, 3.5, -0.25, 0.75])).tolist() == pytest.approx(whitened, abs=1e-6)


@pytest.mark.parametrize(
    ("completions", "theirs"),
    [
        (4, [0.19998400000000002, 0.19999999872, 0.20000666538662, 0.19999066485339, 0.20000666410658, 0.19999866384]),
        (256, [0.198976, 0.19999475712, 0.2004214126018, 0.1993952549693, 0.2004161586748, 0.1999030933086]),
    ],
)
def test_the_adaptive_coefficient_is_that_of_trl_with_completions_over_horizon_as_rate(completions, theirs):
    control = KLControl(KLSettings(schedule="adaptive", target=6.0, rate=completions / 10_000), 0.2, total=6)
    ours = []
    for measured in (3.0, 9.0, 6.5, 0.0, 12.0, 5.4):
        control.after(measured)
        ours.append(control.begin(0))
    assert ours == pytest.approx(theirs, abs=1e-12)
