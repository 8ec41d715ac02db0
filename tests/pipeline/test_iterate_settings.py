"""What `iterate` refuses before it runs."""

import pytest
from pydantic import ValidationError

from sawyer.pipeline.stages.iterate import Settings

NEEDS = {"model": "base", "data": "prompts", "reward": "reward"}


def test_sampling_must_make_sense_at_the_temperatures_that_replace_its_own():
    Settings(**NEEDS, sampling={"temperature": 0, "top_p": 0.9, "repetition_penalty": 1.1})
    with pytest.raises(ValidationError, match=r"replaced by 1, .*: num_beams 2 searches and does not sample"):
        Settings(**NEEDS, sampling={"temperature": 0, "num_beams": 2})
    with pytest.raises(ValidationError, match=r"replaced by 0, .*: temperature 0 takes the likeliest"):
        Settings(**NEEDS, temperatures=[0, 1], sampling={"typical_p": 0.5})
