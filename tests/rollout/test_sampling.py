"""Settings that contradict each other are refused in one sentence, without torch."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from sawyer.errors import SawyerError
from sawyer.rollout.sampling import Sampling, check_sampling

GREEDY = {"temperature": 0}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens 9 is more than max_tokens 8"),
        ({"typical_p": 0.9, "top_p": 0.9}, "typical_p and top_p each say"),
        ({"typical_p": 0.9, "min_p": 0.1}, "typical_p and min_p each say"),
        ({"typical_p": 0.9, **GREEDY}, "temperature 0 takes the likeliest token, which typical_p 0.9 may drop"),
        ({"num_beams": 4}, "num_beams 4 searches and does not sample: it needs temperature 0, not 1"),
        ({"num_beams": 4, "top_p": 0.9, **GREEDY}, "leave out top_p"),
        ({"num_beams": 4, "top_k": 5, **GREEDY}, "leave out top_k"),
        ({"num_beams": 4, "penalty_alpha": 0.6, "top_k": 4, **GREEDY}, "is beam search and penalty_alpha 0.6 is"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha 0.6 searches and does not sample"),
        ({"penalty_alpha": 0.6, **GREEDY}, "needs top_k of at least 2"),
        ({"num_beams": 5, "num_beam_groups": 2, "diversity_penalty": 1.0, **GREEDY}, "cannot be split into 2"),
        ({"num_beams": 4, "num_beam_groups": 2, **GREEDY}, "needs several groups and a penalty above 0"),
        ({"num_beams": 4, "diversity_penalty": 1.0, **GREEDY}, "needs several groups and a penalty above 0"),
        ({"length_penalty": 2.0}, "length_penalty 2 ranks beams"),
        ({"early_stopping": True}, "early_stopping says when beam search stops"),
        ({"no_repeat_ngram_size": -1}, "greater than or equal to 0"),
        ({"repetition_penalty": 0}, "greater than 0"),
        ({"top_p": 0}, "greater than 0"),
        ({"stop": [""]}, "at least 1 character"),
        ({"logit_bias": {-1: 1.0}}, "greater than or equal to 0"),
        ({"frequency_penalty": float("nan")}, "finite number"),
    ],
)
def test_contradictions_are_refused(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Sampling(**given)


def test_a_change_without_validation_is_checked_later():
    changed = Sampling(temperature=0, num_beams=2).model_copy(update={"temperature": 0.7})
    with pytest.raises(SawyerError, match=r"it needs temperature 0, not 0\.7"):
        check_sampling(changed)


def test_greedy_may_come_with_filters_that_change_nothing():
    check_sampling(Sampling(temperature=0, top_p=0.9, top_k=5, min_p=0.1))


def test_settings_survive_a_file():
    sampling = Sampling(logit_bias={5: -100}, stop=("\n\n",), stop_token_ids=(7,), num_beams=2, temperature=0)
    assert Sampling.model_validate_json(sampling.model_dump_json(), strict=True) == sampling
    assert Sampling.model_validate_json(json.dumps({"logit_bias": {5: 1}}), strict=True).logit_bias == {5: 1.0}


def test_settings_need_no_torch():
    code = "import sys, sawyer.rollout.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
