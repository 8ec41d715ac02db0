"""The vLLM engine against vLLM's protocol (`fake_vllm`)."""

import dataclasses
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.rollout.protocol import Completion, Sampling
from sawyer.rollout.torch_engine import TorchEngine
from sawyer.rollout.vllm_engine import VllmEngine
from sawyer.rollout.vllm_params import sample_seed
from tests.rollout import fake_vllm, fake_vllm_weights
from tests.rollout.decoders import tiny_model
from tests.rollout.slow import expected_logps, own_logps

PROMPTS = [[1, 5, 9, 11, 30], [1, 20, 21], [1, 8, 8, 8, 17, 10, 12, 13], [33]]
WORDS = [Prompt("abc"), Prompt("a comet"), Prompt("then run")]


@pytest.fixture
def engine(vllm, folder, chat):
    return VllmEngine(folder, chat)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=6),
        Sampling(max_tokens=6, temperature=0.7, top_k=12, top_p=0.8),
        Sampling(max_tokens=6, min_p=0.05),
        Sampling(max_tokens=6, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=-0.6),
        Sampling(max_tokens=6, logit_bias={7: 2.5, 9: -3.0}, min_tokens=4, stop_token_ids=(11,)),
    ],
    ids=lambda sampling: ",".join(sorted(sampling.model_fields_set - {"max_tokens"})) or "plain",
)
def test_logps_are_those_of_the_distribution_drawn_from(engine, llama, sampling):
    drawn = engine.generate_ids(PROMPTS, sampling.model_copy(update={"full_logps": True}), 3)
    for prompt, samples in zip(PROMPTS, drawn, strict=True):
        for d in samples:
            expected = expected_logps(llama, sampling, prompt, d.ids, (2, *sampling.stop_token_ids))
            np.testing.assert_allclose(d.logps, expected, atol=1e-5)
            np.testing.assert_allclose(d.full_logps, own_logps(llama, prompt, d.ids), atol=1e-5)


def test_greedy_search_draws_nothing_and_is_computed_once(engine, llama, chat):
    sampling = Sampling(max_tokens=9, temperature=0, full_logps=True, presence_penalty=0.5)
    drawn = engine.generate_ids(PROMPTS[:2], sampling, 3)
    assert [[d.ids for d in samples] for samples in drawn] == [
        [d.ids for d in samples] for samples in TorchEngine(llama, chat).generate_ids(PROMPTS[:2], sampling, 3)
    ]
    assert len(engine._llm.cache) == 2
    for prompt, (first, *others) in zip(PROMPTS, drawn, strict=False):
        assert others == [first, first]
        assert first.logps == (0.0,) * len(first.ids)
        np.testing.assert_allclose(first.full_logps, own_logps(llama, prompt, first.ids), atol=1e-5)


def test_full_logps_cost_a_second_pass_only_where_the_distribution_is_changed(engine):
    plain, hot = Sampling(max_tokens=4, full_logps=True), Sampling(max_tokens=4, full_logps=True, temperature=1.5)
    (a,), (b,) = (engine.generate_ids(PROMPTS[:1], s, 1)[0] for s in (plain, hot))
    assert engine._llm.requests == 1 + 2
    assert a.full_logps == a.logps
    assert b.full_logps != b.logps
    room = 128 - 4 - 1  # one place is for the token that vLLM generates after what it scores
    engine.generate_ids([[5] * room], hot)
    engine.generate_ids([[5] * (room + 1)], plain)
    with pytest.raises(SawyerError, match="prompt 0 has 124 tokens"):
        engine.generate_ids([[5] * (room + 1)], hot)


def test_a_completion_depends_on_seed_prompt_and_sample_number_alone(engine):
    sampling = Sampling(max_tokens=12)
    together = engine.generate_ids(PROMPTS, sampling, 4, seed=3)
    for index, prompt in enumerate(PROMPTS):
        (alone,) = engine.generate_ids([prompt], sampling, 4, seed=3)
        assert alone == together[index]
        assert alone[:2] == engine.generate_ids([prompt], sampling, 2, seed=3)[0]
    assert engine.generate_ids(PROMPTS[:1], sampling, 4, seed=4)[0] != together[0]
    assert len({d.ids for d in together[0]}) == 4
    seeds = {sample_seed(s, prompt, k) for s in (0, 1) for prompt in PROMPTS for k in range(50)}
    assert len(seeds) == 400
    assert 0 <= min(seeds) <= max(seeds) < 2**63


def test_completions_end_with_their_end_or_at_the_limit(engine):
    drawn = [d for samples in engine.generate_ids(PROMPTS, Sampling(max_tokens=20), 12) for d in samples]
    assert {d.finished for d in drawn} == {True, False}
    for d in drawn:
        assert d.finished == (d.ids[-1] == 2)
        assert 2 not in d.ids[:-1]
        assert d.finished or len(d.ids) == 20
    late = engine.generate_ids(PROMPTS, Sampling(max_tokens=20, min_tokens=9), 12)
    assert min(len(d.ids) for samples in late for d in samples) == 10


def test_only_the_chat_format_and_the_settings_say_what_an_end_is(vllm, tmp_path, chat):
    model = tiny_model("Llama")
    model.generation_config.eos_token_id = [2, 9, 10, 11]
    model.save_pretrained(tmp_path)
    chat.save(tmp_path)
    drawn = VllmEngine(str(tmp_path), chat).generate_ids(PROMPTS, Sampling(max_tokens=20), 12)
    assert {9, 10, 11} & {token for samples in drawn for d in samples for token in d.ids[:-1]}
    assert {d.ids[-1] for samples in drawn for d in samples if d.finished} == {2}


def test_text_is_cut_before_a_stop_token_or_string_and_ids_are_not(engine, chat):
    stop, token = "e", chat.tokenizer.convert_tokens_to_ids("t")
    sampling = Sampling(max_tokens=40, stop=(stop,), stop_token_ids=(token,))
    found = [c for samples in engine.generate(WORDS, sampling, 10) for c in samples]
    letters = chat.tokenizer.convert_ids_to_tokens
    assert {letters(c.ids[-1]) for c in found if c.finished} == {"e", "t", "</s>"}
    for c in found:
        assert c.text == chat.decode(c.ids[:-1] if c.finished else c.ids)
        assert stop not in c.text
        assert "t" not in c.text
        assert len(c.logps) == len(c.ids)


def test_progress_counts_every_token_but_those_of_the_second_pass(engine):
    counts = []
    sampling = Sampling(max_tokens=9, temperature=1.5, full_logps=True)
    drawn = engine.generate_ids(PROMPTS, sampling, 3, progress=counts.append)
    assert len(counts) == 12
    assert sum(counts) == sum(len(d.ids) for samples in drawn for d in samples)


def test_a_bad_prompt_is_reported_and_the_rest_is_kept(engine):
    sampling = Sampling(max_tokens=8)
    prompts = [Prompt("abc"), Prompt("  "), Prompt("a comet"), Prompt("a" * 200)]
    one, empty, two, long = engine.generate(prompts, sampling, 2, keep_failed=True)
    assert [one, two] == engine.generate([prompts[0], prompts[2]], sampling, 2)
    assert empty == [Completion.failed("the prompt is empty")] * 2
    assert all("exceeds the model's context of 128" in c.error and (c.ids, c.text) == ((), "") for c in long)
    with pytest.raises(SawyerError, match=r"prompt 3 has \d+ tokens"):
        engine.generate([*prompts[::2], *prompts[2:]], sampling)
    with pytest.raises(SawyerError, match="prompt 1 is empty"):
        engine.generate(prompts, sampling)
    assert engine.generate([], sampling) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 0, "num_beams": 4}, "the vLLM engine has no num_beams"),
        ({"temperature": 0, "penalty_alpha": 0.6, "top_k": 4}, "has no penalty_alpha"),
        ({"typical_p": 0.9}, "has no typical_p"),
        ({"no_repeat_ngram_size": 3}, "has no no_repeat_ngram_size"),
        ({"temperature": 0.001}, "does not sample at temperature 0.001"),
        ({"temperature": 2.5}, "refuses the sampling settings: temperature"),
        ({"presence_penalty": 3.0}, "refuses the sampling settings: presence_penalty"),
        ({"logit_bias": {61: 1.0}}, "logit_bias names the token 61"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_anything_is_computed(engine, settings, sentence):
    with pytest.raises(SawyerError, match=sentence):
        engine.generate([Prompt(" ")], Sampling(**settings), 2, keep_failed=True)
    assert engine._llm.requests == 0


def test_what_would_kill_vllms_worker_is_refused():
    from sawyer.rollout.vllm_params import check_for_vllm

    with pytest.raises(SawyerError, match="at most 1024 tokens in logit_bias, not 1025"):
        check_for_vllm(Sampling(logit_bias=dict.fromkeys(range(1025), 1.0)), [2])
    with pytest.raises(SawyerError, match="at most 128 end and stop tokens, not 129"):
        check_for_vllm(Sampling(min_tokens=1), range(129))


def test_an_interrupted_generation_leaves_nothing_behind(engine):
    def interrupt(count):
        raise KeyboardInterrupt

    sampling = Sampling(max_tokens=4)
    before = engine.generate(WORDS[1:2], sampling, 2)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(WORDS, sampling, 3, progress=interrupt)
    assert engine.generate(WORDS[1:2], sampling, 2) == before


def breaking_off(engine, monkeypatch, requests):
    """Lets vLLM break off these requests, counted from 0."""
    answer = engine._llm._answer

    def broken(request_id, *request):
        output = answer(request_id, *request)
        if int(request_id.split("-")[0]) in requests:
            output.outputs[0].finish_reason, output.outputs[0].logprobs, output.prompt_logprobs = "abort", None, None
        return output

    monkeypatch.setattr(engine._llm, "_answer", broken)


def test_a_completion_that_vllm_breaks_off_is_an_error(engine, monkeypatch):
    breaking_off(engine, monkeypatch, {1})
    with pytest.raises(SawyerError, match="broke off a completion: it gives 'abort'"):
        engine.generate(WORDS, Sampling(max_tokens=4))


@pytest.mark.parametrize(
    ("sampling", "requests"),
    [
        (Sampling(max_tokens=4), {3}),
        (Sampling(max_tokens=4, full_logps=True), {3}),
        (Sampling(max_tokens=4, full_logps=True, temperature=1.5), {3}),
        (Sampling(max_tokens=4, full_logps=True, temperature=1.5), {6 + 3}),  # of the second pass
    ],
)
def test_a_completion_that_vllm_breaks_off_fails_alone_where_failures_are_kept(engine, monkeypatch, sampling, requests):
    whole = engine.generate(WORDS, sampling, 2)
    first = engine._llm.requests
    breaking_off(engine, monkeypatch, {first + k for k in requests})
    found = engine.generate(WORDS, sampling, 2, keep_failed=True)
    failed = found[1][1]
    assert "it gives 'abort' as its reason" in failed.error
    assert failed == Completion.failed(failed.error, again=True)
    assert [own[0] for own in found] == [own[0] for own in whole]
    assert (found[0], found[2]) == (whole[0], whole[2])


def test_greedy_search_that_vllm_breaks_off_fails_for_every_sample(engine, monkeypatch):
    breaking_off(engine, monkeypatch, {0, 1, 2})
    sampling = Sampling(max_tokens=4, temperature=0, full_logps=True, presence_penalty=0.5)
    found = engine.generate(WORDS, sampling, 2, keep_failed=True)
    assert all(completion.again for own in found for completion in own)


def test_options_go_to_vllm_under_its_names(vllm, folder, chat):
    engine = VllmEngine(folder, chat, max_model_len=64, enforce_eager=True, max_num_seqs=8)
    with pytest.raises(SawyerError, match="context of 64"):
        engine.generate_ids([[5] * 60], Sampling(max_tokens=5))
    with pytest.raises(SawyerError, match=r"vLLM cannot run .*unexpected keyword argument 'eager'"):
        VllmEngine(folder, chat, eager=True)
    with pytest.raises(SawyerError, match="logprobs_mode is set by the engine itself"):
        VllmEngine(folder, chat, logprobs_mode="raw_logprobs")


def test_the_example_in_the_docs_runs(vllm, folder, llama):
    page = (Path(__file__).parents[2] / "docs/reference/rollout.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {"model": llama}
    exec(example.replace("runs/b/sft", folder), names)
    assert [len(samples) for samples in names["completions"]] == [4]


def test_a_model_that_is_no_folder_of_safetensors_is_refused(vllm, chat, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SawyerError, match="vLLM needs a folder with a whole model in safetensors"):
        VllmEngine(str(tmp_path), chat)


def test_without_vllm_the_extra_is_named(monkeypatch, chat):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SawyerError, match=r"pip install -e '\.\[vllm\]'"):
        VllmEngine("model", chat)


# ---------------------------------------------------------------------- vLLM itself


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_fake_has_nothing_that_vllm_has_not():
    import vllm
    from vllm.distributed.weight_transfer import ipc_engine, packed_tensor
    from vllm.engine.arg_utils import EngineArgs
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine

    def fields(cls):
        return {field.name for field in dataclasses.fields(cls)}

    assert {f for f in vllm.SamplingParams.__struct_fields__ if f[0] != "_"} == fields(fake_vllm.SamplingParams)
    assert fields(CompletionOutput) == fields(fake_vllm.CompletionOutput)
    assert fields(packed_tensor.PackedIpcChunk) == fields(fake_vllm_weights.PackedIpcChunk)
    assert fields(ipc_engine.IPCWeightTransferUpdateInfo) == fields(fake_vllm_weights.IPCWeightTransferUpdateInfo)
    assert fields(EngineArgs) >= fake_vllm.ENGINE_ARGS
    pairs = [
        (vllm.LLM, fake_vllm.LLM),
        (LLMEngine, fake_vllm.LLMEngine),
        (RequestOutput, fake_vllm.RequestOutput),
    ]
    for real, fake in pairs:
        for name, method in inspect.getmembers(fake, inspect.isfunction):
            if name == "__init__" and fake is fake_vllm.LLMEngine:
                continue
            if not name.startswith("_") or name == "__init__":
                assert (
                    inspect.signature(method).parameters.keys()
                    <= inspect.signature(getattr(real, name)).parameters.keys()
                )
