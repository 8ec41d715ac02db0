"""Our sampling settings in vLLM's words (`SamplingParams` of vLLM 0.33.0), and those that it has no words for.

| ours | vLLM's |
|---|---|
| the model's end token, `stop_token_ids` | `stop_token_ids`, with `ignore_eos`: nothing else is an end |
| `stop` | `stop`, with `detokenize`; the text is cut by `stopping`, as with every engine |
| `logps` | `logprobs=0` (the drawn token's alone), in the engine's mode `processed_logprobs` |
| all others | the field of the same name |

Its order differs from ours in that `min_p` comes before top-k and top-p. While `min_tokens` forbids the end, it also
forbids what else the model's generation config calls an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sawyer.errors import SawyerError, reason
from sawyer.rollout.keys import sequence_key
from sawyer.rollout.sampling import Sampling

# vLLM's worker has room for so many per request, and dies where there are more (v1/worker/gpu/sample/logit_bias.py)
_MOST_BIASES = 1024
_MOST_ENDS = 128
# below it vLLM takes a temperature for 0, or else raises it to this (sampling_params.py)
_LOWEST_TEMPERATURE = 0.01


def check_for_vllm(sampling: Sampling, end_ids: Sequence[int]) -> None:
    """Refuse what vLLM cannot do, or would change without saying so.

    Args:
        end_ids: every token that ends a completion.

    Raises:
        SawyerError: says which setting it is.
    """
    s = sampling
    searches = {"num_beams": s.num_beams > 1, "penalty_alpha": s.penalty_alpha > 0}
    lacks = {**searches, "typical_p": s.typical_p < 1, "no_repeat_ngram_size": s.no_repeat_ngram_size > 0}
    if (name := next((name for name, on in lacks.items() if on), None)) is not None:
        raise SawyerError(f"the vLLM engine has no {name}: leave it out, or generate with the torch engine")
    if 0 < s.temperature < _LOWEST_TEMPERATURE:
        raise SawyerError(
            f"vLLM does not sample at temperature {s.temperature:g}: use at least {_LOWEST_TEMPERATURE:g}, or 0"
        )
    if len(s.logit_bias) > _MOST_BIASES:
        raise SawyerError(f"vLLM takes at most {_MOST_BIASES} tokens in logit_bias, not {len(s.logit_bias)}")
    if s.min_tokens > 0 and len(end_ids) > _MOST_ENDS:
        raise SawyerError(f"with min_tokens vLLM takes at most {_MOST_ENDS} end and stop tokens, not {len(end_ids)}")
    sampling_params(sampling, end_ids, 0)  # vLLM's own limits, such as a temperature of at most 2


def sampling_params(sampling: Sampling, end_ids: Sequence[int], seed: int) -> Any:
    """The `vllm.SamplingParams` of one completion.

    Raises:
        SawyerError: vLLM refuses a value.
    """
    from vllm import SamplingParams

    s = sampling
    try:
        return SamplingParams(
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            repetition_penalty=s.repetition_penalty,
            frequency_penalty=s.frequency_penalty,
            presence_penalty=s.presence_penalty,
            logit_bias=dict(s.logit_bias) or None,
            max_tokens=s.max_tokens,
            min_tokens=s.min_tokens,
            stop=list(s.stop),
            stop_token_ids=list(end_ids),
            ignore_eos=True,
            seed=seed,
            logprobs=0,
            detokenize=bool(s.stop),
        )
    except Exception as error:  # its errors have no base class but this one across versions
        raise SawyerError(f"vLLM refuses the sampling settings: {reason(error)}") from error


def scoring_params() -> Any:
    """The `vllm.SamplingParams` that give the log-prob of each token of a prompt; one token has to be generated."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, ignore_eos=True, detokenize=False)


def sample_seed(seed: int, prompt: Sequence[int], sample: int) -> int:
    """The seed of one completion: 63 bits, which is what vLLM's workers keep."""
    return int.from_bytes(sequence_key(seed, prompt, sample)[:8], "little") >> 1


def draws_from_the_model(sampling: Sampling) -> bool:
    """Whether vLLM's log-probs for these settings are those of the model's own distribution, softmax(logits).

    They are at temperature 1 without filters, and in greedy search, whose log-probs vLLM gives without temperature;
    unless penalties, biases or a minimum length change the logits.
    """
    s = sampling
    penalties = s.repetition_penalty != 1 or s.frequency_penalty != 0 or s.presence_penalty != 0
    if penalties or s.logit_bias or s.min_tokens > 0:
        return False
    return s.temperature == 0 or (s.temperature == 1 and s.top_k == 0 and s.top_p == 1 and s.min_p == 0)
