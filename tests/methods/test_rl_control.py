"""What reinforcement learning is steered by: KL coefficients, running moments, shaped rewards, signs of collapse."""

import json
import statistics

import pytest
from pydantic import ValidationError

from sawyer.feedback.protocol import sigmoid
from sawyer.methods.collapse import CollapseDetector, CollapseSettings
from sawyer.methods.kl_control import KLControl, KLSettings
from sawyer.methods.rewards import Part, Shaper, ShapingSettings
from sawyer.methods.running import RunningMoments

HEALTHY = {"completion_tokens": 40.0, "distinct_2": 0.8, "entropy": 2.0, "finished": 0.9, "kl": 1.0}


def test_a_fixed_coefficient_stays():
    control = KLControl(KLSettings(), 0.05, 10)
    control.after(100.0)
    assert [control.begin(step) for step in range(3)] == [0.05] * 3


def test_the_adaptive_coefficient_is_that_of_ziegler_and_of_trl():
    horizon, per_step, target = 10_000, 64, 6.0
    control = KLControl(KLSettings(schedule="adaptive", target=target, rate=per_step / horizon), 0.2, 10)
    beta = 0.2
    for kl in (0.0, 5.9, 6.5, 40.0, 7.0):
        beta *= 1 + min(max(kl / target - 1, -0.2), 0.2) * per_step / horizon
        control.after(kl)
        assert control.begin(0) == pytest.approx(beta)


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.06), ("cosine", 0.06)])
def test_scheduled_coefficients_go_to_their_end(schedule, middle):
    control = KLControl(KLSettings(schedule=schedule, final=0.02), 0.1, 11)
    assert [control.begin(step) for step in (0, 5, 10)] == pytest.approx([0.1, middle, 0.02])


def test_a_tightened_coefficient_is_what_a_continuation_finds():
    control = KLControl(KLSettings(), 0.1, 5)
    control.tighten()
    again = KLControl(KLSettings(), 0.1, 5)
    again.load(json.loads(json.dumps(control.state())))
    assert again.begin(3) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"coefficient": -0.1}, "greater than or equal to 0"),
        ({"target": 3}, "`target` is for `schedule: adaptive`"),
        ({"schedule": "adaptive", "final": 0.1}, "`final` is for `schedule: linear or cosine`"),
        ({"ceiling": 0}, "greater than 0"),
        ({"as": "penalty"}, "reward"),
    ],
)
def test_kl_settings_that_do_not_fit(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        KLSettings(**given)


def test_kl_settings_written_out_say_the_same():
    settings = KLSettings(**{"as": "loss", "estimator": "k3"})
    assert settings.model_dump(mode="json")["as"] == "loss"
    assert KLSettings(**settings.model_dump(mode="json")) == settings


def test_running_moments_are_those_of_everything_seen():
    batches = [[1.0, 2.0, 4.0], [], [1e6, 1e6 + 1], [-3.0]]
    moments = RunningMoments()
    for batch in batches:
        moments.add(batch)
        moments = RunningMoments(json.loads(json.dumps(moments.state())))
    every = [value for batch in batches for value in batch]
    assert moments.mean == pytest.approx(statistics.mean(every))
    assert moments.std == pytest.approx(statistics.pstdev(every))
    assert moments.normalised([moments.mean]) == pytest.approx([0])
    assert RunningMoments().normalised([5.0]) == [0.0]


def shaper(*parts, **settings):
    return Shaper(ShapingSettings(**settings), parts or (Part(),))


def test_scores_are_normalised_then_clipped_then_penalised():
    own = shaper(normalise="batch", clip=1.0, missing_eos_penalty=0.5, length_penalty=0.01)
    found = own.rewards([[0.0, 0.0, 0.0, 12.0]], [10, 20, 10, 10], [True, True, False, True])
    z = -3 / statistics.pstdev([0, 0, 0, 12])
    assert found == pytest.approx([z - 0.1, z - 0.2, z - 0.1 - 0.5, 1.0 - 0.1])


def test_running_normalisation_remembers_what_came_before():
    own = shaper(normalise="running")
    own.rewards([[0.0, 2.0]], [1, 1], [True] * 2)
    again = shaper(normalise="running")
    again.load(json.loads(json.dumps(own.state())))
    found = again.rewards([[1.0, 5.0]], [1, 1], [True] * 2)
    every = [0, 2, 1, 5]
    assert found == pytest.approx([(x - 2) / statistics.pstdev(every) for x in (1, 5)])


def test_held_out_scores_keep_the_scale_of_the_first_time():
    own = shaper(normalise="running", clip=0.1)
    before = own.rewards([[0.0, 2.0]], [1, 1], [True] * 2, held_out=True)
    own.rewards([[50.0, 90.0]], [1, 1], [True] * 2)
    after = own.rewards([[2.0, 4.0]], [1, 1], [True] * 2, held_out=True)
    assert before == pytest.approx([-1, 1])
    assert after == pytest.approx([1, 3])


def test_several_scores_are_a_weighted_sum_each_on_its_own_scale():
    found = shaper(Part(weight=2.0), Part(weight=-1.0, normalise="batch")).rewards(
        [[1.0, 3.0], [10.0, 30.0]], [1, 1], [True] * 2
    )
    assert found == pytest.approx([2 * 1 + 1, 2 * 3 - 1])


def test_a_safety_score_takes_over_below_its_threshold_and_on_marked_prompts():
    """Llama 2's R_c: R_s where the prompt is marked or R_s < 0.15, else R_h."""
    helpful, safe = [5.0, 5.0, 5.0], [-3.0, 3.0, 3.0]
    assert sigmoid(-3.0) < 0.15
    found = shaper(Part(), Part(below=0.15)).rewards([helpful, safe], [1] * 3, [True] * 3, [False, False, True])
    assert found == pytest.approx([-3.0, 5.0, 3.0])


def look(detector, **changes):
    return detector.look({**HEALTHY, **changes})


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({"completion_tokens": 9.0}, "completions have 9.0 tokens, 40.0 at first"),
        ({"distinct_2": 0.3}, "distinct-2 is 0.30"),
        ({"entropy": 0.1}, "the entropy of a token is 0.10 nats"),
        ({"entropy": 7.0}, "the entropy of a token is 7.00 nats"),
        ({"finished": 0.0}, "0% of completions end"),
        ({"kl": 25.0}, "above the ceiling of 20"),
    ],
)
def test_each_sign_of_collapse_needs_patience(change, sign):
    detector = CollapseDetector(CollapseSettings(patience=2), ceiling=20.0)
    assert look(detector) is None
    assert look(detector, **change) is None
    assert look(detector) is None  # it was noise
    assert look(detector, **change) is None
    again = CollapseDetector(CollapseSettings(patience=2), ceiling=20.0)
    again.load(json.loads(json.dumps(detector.state())))
    assert sign in look(again, **change)


def test_a_sign_can_be_switched_off():
    detector = CollapseDetector(CollapseSettings(patience=1, length=0))
    assert look(detector) is None
    assert look(detector, completion_tokens=1.0, kl=1e9) is None
