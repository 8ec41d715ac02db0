"""`sawyer generate` with a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sawyer.data.files import write_rows
from sawyer.rollout.protocol import Completion
from sawyer.rollout.torch_engine import TorchEngine
from tests.apps.conftest import leftovers, rows, stopping_after
from tests.rollout import fake_vllm
from tests.rollout.chat_server import KEY

ROOT = Path(__file__).parents[2]


# --- local ------------------------------------------------------------------------------------------------------------


def test_a_row_for_each_prompt_with_n_samples(local):
    code, out, err = local("--n", 2)
    assert code == 0, err
    assert out.startswith("6 completions of 3 prompts in ")
    assert [row["row"] for row in rows()] == [1, 2, 3]
    assert rows()[1]["prompt"] == [{"role": "user", "content": "What is a town?"}]
    for row in rows():
        assert len(row["samples"]) == 2
        for sample in row["samples"]:
            assert sample.keys() == {"ids", "logps", "text", "finished"}
            assert len(sample["ids"]) == len(sample["logps"]) > 0
    assert not leftovers()


def test_json_prints_a_summary_and_nothing_else(local):
    code, out, _ = local("--json", "--temperature", 0.5, "--top-k", 3, out="a.parquet")
    summary = json.loads(out)
    assert code == 0
    assert (summary["prompts"], summary["completions"], summary["failed"]) == (3, 3, [])
    assert summary["tokens"] == sum(len(row["samples"][0]["ids"]) for row in rows("a.parquet"))
    assert summary["tokens_per_second"] > 0


def test_seed_and_system_turn_matter_and_repeat(local):
    texts = []
    for number, options in enumerate([(), (), ("--seed", 1), ("--system", "Be brief.")]):
        assert local(*options, out=f"{number}.jsonl")[0] == 0
        texts.append([row["samples"] for row in rows(f"{number}.jsonl")])
    assert texts[0] == texts[1]
    assert texts[2] != texts[0] != texts[3]


def test_bad_prompts_are_reported_and_the_rest_is_kept(local):
    turns = [{"role": "user", "content": "word " * 300}]
    lines = [{"prompt": "What?"}, {"prompt": " "}, {"prompt": turns}, {"prompt": 5}, {"prompt": ""}, {"prompt": "Why?"}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = local("--json", prompts="p.jsonl")
    assert code == 3
    assert [row["row"] for row in rows()] == [1, 6]
    assert "rows 2, 5: the prompt is empty" in err
    assert "exceeds the model's context of 256" in err
    assert [failure["row"] for failure in json.loads(out)["failed"]] == [2, 3, 4, 5]


def test_nothing_but_bad_prompts_is_a_mistake(local):
    write_rows("p.jsonl", [{"prompt": " "}, {"prompt": ""}])
    code, out, err = local(prompts="p.jsonl")
    assert (code, out) == (2, "")
    assert "not one prompt of p.jsonl could be answered; the first is row 1: the prompt is empty" in err
    assert not Path("a.jsonl").exists()
    assert not leftovers()


def test_a_model_without_a_chat_template_is_asked_plainly(generate, saved_policy, tmp_path):
    model = Path(saved_policy("gpt2"))
    for file in model.glob("*template*"):
        file.unlink()
    config = model / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}))
    code, _, err = generate("--model", model, "--prompts", "p.txt", "--out", "a.jsonl", "--max-tokens", 3)
    assert code == 0, err
    assert "no chat template" in err


def test_an_interrupted_generation_continues_to_the_same_output(local, monkeypatch):
    options = ("--n", 8, "--batch", 1)  # a chunk is eight batches, here one prompt
    local(*options, out="whole.jsonl")
    with monkeypatch.context() as patch:
        stopping_after(2, patch)
        code, _, err = local(*options)
    assert code == 130
    assert "run the same command again" in err
    assert not Path("a.jsonl").exists()
    made = stopping_after(99, monkeypatch)
    assert local(*options)[0] == 0
    assert made == [["What is a bridge?"]]
    assert rows() == rows("whole.jsonl")
    assert not leftovers()


@pytest.mark.parametrize(
    "other", [("--seed", 1), ("--temperature", 0.5), ("--precision", "bf16"), ("--system", "x"), ("--token-budget", 99)]
)
def test_chunks_of_other_options_are_not_taken(local, monkeypatch, other):
    with monkeypatch.context() as patch:
        stopping_after(2, patch)
        local("--batch", 1, "--n", 8)
    made = stopping_after(99, monkeypatch)
    assert local("--batch", 1, "--n", 8, *other)[0] == 0
    assert len(made) == 3


def test_vllm_generates_when_asked(local, monkeypatch):
    class Recorded(fake_vllm.LLM):
        def __init__(self, *arguments, **options):
            made.append(options)
            super().__init__(*arguments, **options)

    made = []
    monkeypatch.setattr(fake_vllm, "LLM", Recorded)
    fake_vllm.install(monkeypatch)
    code, out, err = local("--engine", "vllm", "--gpus", 2, "--precision", "fp32", "--batch", 3, "--n", 2)
    assert code == 0, err
    assert out.startswith("6 completions of 3 prompts in ")
    assert all(len(sample["ids"]) == len(sample["logps"]) > 0 for row in rows() for sample in row["samples"])
    (options,) = made
    assert (options["tensor_parallel_size"], options["max_num_seqs"], options["dtype"]) == (2, 3, "float32")


def test_a_batch_is_filled_however_many_completions_a_prompt_gets(local, monkeypatch):
    Path("p.txt").write_text("".join(f"What is {i}?\n" for i in range(20)))
    made = stopping_after(99, monkeypatch)
    assert local("--n", 4, "--batch", 8)[0] == 0
    assert [len(prompts) for prompts in made] == [16, 4]  # eight batches of eight sequences, four of each prompt


def spying(monkeypatch):
    """The engines that generate, with the settings and the n that they are asked for."""
    original, seen = TorchEngine.generate, []

    def generate(self, prompts, sampling, n=1, **options):
        seen.append((self, sampling, n))
        return original(self, prompts, sampling, n, **options)

    monkeypatch.setattr(TorchEngine, "generate", generate)
    return seen


def test_batch_and_token_budget_reach_the_engine(local, monkeypatch):
    seen = spying(monkeypatch)
    assert local()[0] == 0
    assert local("--batch", 9, "--token-budget", 50, out="b.jsonl")[0] == 0
    assert [(engine.limits.max_batch, engine.limits.token_budget) for engine, _, _ in seen] == [(256, 32768), (9, 50)]
    assert [row["samples"][0]["ids"] for row in rows()] == [row["samples"][0]["ids"] for row in rows("b.jsonl")]


def test_bias_stops_and_full_log_probs_reach_the_engine(local):
    forced = ("--temperature", 0, "--logit-bias", "{40: 1000}")
    assert local(*forced, "--full-logps")[0] == 0
    for row in rows():
        (sample,) = row["samples"]
        assert sample["ids"] == [40] * 6
        assert sample["logps"] == [0.0] * 6
        assert len(sample["full_logps"]) == 6
        assert all(logp < 0 for logp in sample["full_logps"])
    letter = sample["text"][0]
    assert local(*forced, "--stop", letter * 9, "--stop", letter * 3, out="b.jsonl")[0] == 0
    assert [row["samples"] for row in rows("b.jsonl")] == [
        [{"ids": [40] * 3, "logps": [0.0] * 3, "text": "", "finished": True}]
    ] * 3


def test_beams_reach_the_engine(local, monkeypatch):
    seen = spying(monkeypatch)
    assert local("--temperature", 0, "--num-beams", 3, "--n", 2)[0] == 0
    ((_, sampling, n),) = seen
    assert (sampling.num_beams, n) == (3, 2)
    for row in rows():
        first, second = (sample["ids"] for sample in row["samples"])
        assert first != second


def test_a_killed_generation_continues_to_the_same_output(local, monkeypatch, tmp_path):
    Path("p.txt").write_text("".join(f"What is {i}?\n" for i in range(160)))
    assert local("--batch", 2, out="whole.jsonl")[0] == 0
    words = ("--model", tmp_path / "llama-0", "--prompts", "p.txt", "--out", "a.jsonl", "--max-tokens", 6, "--batch", 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "sawyer", "generate", *map(str, words)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while process.poll() is None and len(list(Path().glob(".a.jsonl.work/*/chunks/*.json"))) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    chunks = len(list(Path().glob(".a.jsonl.work/*/chunks/*.json")))
    assert 2 <= chunks < 160 / 16
    assert not Path("a.jsonl").exists()
    made = stopping_after(99, monkeypatch)
    assert local("--batch", 2)[0] == 0
    assert sum(len(prompts) for prompts in made) == 160 - 16 * chunks
    for row, whole in zip(rows(), rows("whole.jsonl"), strict=True):
        (sample,), (same,) = row.pop("samples"), whole.pop("samples")
        assert sample.pop("logps") == pytest.approx(same.pop("logps"), abs=1e-4)
        assert (row, sample) == (whole, same)
    assert not leftovers()


def test_a_model_that_diverged_is_one_sentence_every_time(local, monkeypatch):
    def generate(self, prompts, sampling, n=1, **options):
        return [[Completion((5,), (float("nan"),), "a", True)] * n for _ in prompts]

    monkeypatch.setattr(TorchEngine, "generate", generate)
    for _ in range(2):
        code, out, err = local()
        assert (code, out) == (2, "")
        assert err.startswith("error: a log-prob of a completion of prompt 0 is no finite number")
        assert err.count("\n") == 1
        assert not leftovers()


def test_what_vllm_breaks_off_is_asked_for_again_and_nothing_else(local, monkeypatch):
    fake_vllm.install(monkeypatch)
    original, asked, broken = fake_vllm.LLM._answer, [], {"1"}

    def answer(self, request_id, *request):
        output = original(self, request_id, *request)
        asked.append(output.request_id)
        if output.request_id in broken:
            output.outputs[0].finish_reason = "abort"
        return output

    monkeypatch.setattr(fake_vllm.LLM, "_answer", answer)
    code, _, err = local("--engine", "vllm", "--precision", "fp32")
    assert code == 3
    assert "row 2: vLLM broke off a completion: it gives 'abort' as its reason" in err
    assert "1 of these may be had another time: run the same command again with --overwrite" in err
    before = rows()
    assert [row["row"] for row in before] == [1, 3]
    asked.clear()
    broken.clear()
    code, _, err = local("--engine", "vllm", "--precision", "fp32", "--overwrite")
    assert (code, len(asked)) == (0, 1), err
    assert [row["row"] for row in rows()] == [1, 2, 3]
    assert [rows()[0], rows()[2]] == before
    assert not leftovers()


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--n", 0), "--n is 0: ask for at least one"),
        (("--n", -1), "--n is -1"),
        (("--temperature", -1), "--temperature: temperature should be greater than or equal to 0, not -1"),
        (("--temperature", "warm"), "--temperature: temperature should be a valid number, not 'warm'"),
        (("--top-p", 2), "--top-p: top_p should be less than or equal to 1, not 2"),
        (("--min-tokens", 9), "min_tokens 9 is more than max_tokens 6"),
        (("--precision", "fp8"), "--precision is 'fp8'; choose fp32 or bf16"),
        (("--batch", 0), "--batch is 0"),
        (("--token-budget", 0), "--token-budget is 0"),
        (("--engine", "vllm", "--token-budget", 9), "--token-budget is for --engine torch"),
        (("--num-beams", 2, "--n", 3, "--temperature", 0), "num_beams 2 finds at most 2 completions"),
        (("--num-beams", 2), "num_beams 2 searches and does not sample: it needs temperature 0"),
        (("--best-of", 4), "--best-of needs --by too"),
        (("--by", "reward"), "--by needs --best-of too"),
        (("--best-of", 1, "--by", "verifiable"), "--best-of is 1: compare at least 2"),
        (("--best-of", 2, "--by", "no/such/reward"), "There is no model at no/such/reward"),
        (("--best-of", 2, "--by", "verifiable"), "it has no constraints in its `info`"),
        (("--best-of", 2, "--by", "verifiable", "--temperature", 0), "compares equal completions"),
        (("--engine", "tgi"), "--engine is 'tgi'; choose torch or vllm"),
        (("--gpus", 2), "--gpus is for vLLM; give --engine vllm too, or drop it"),
        (("--engine", "vllm", "--gpus", 0), "--gpus must be at least 1"),
        (("--engine", "vllm", "--endpoint", "http://localhost:1/v1"), "--engine is for local models"),
        (("--concurrency", 4), "--concurrency is for remote models"),
        (("--cache", "c"), "--cache keeps the answers of remote models"),
        (("--endpoint", "http://localhost:1/v1", "--batch", 4), "--batch is for local models"),
        (("--endpoint", "localhost"), "the endpoint 'localhost' is not a URL"),
        (("--endpoint", "http://localhost:1/v1", "--top-k", 4), "top_k is not part of the chat-completions API"),
        (("--endpoint", "http://localhost:1/v1", "--concurrency", 0), "--concurrency: concurrency should be greater"),
        (("--endpoint", "http://localhost:1/v1", "--concurrency", 1001), "should be less than or equal to 1000"),
        (("--endpoint", "http://localhost:1/v1", "--token-budget", 9), "--token-budget is for local models"),
        (("--endpoint", "http://localhost:1/v1", "--key-variable", KEY), "never the key itself"),
        (("--chat-template", "nice"), "no chat template is called 'nice'"),
        (("--out", "no/a.jsonl"), "there is no folder no; make it first"),
        (("--out", "a.csv"), "a.csv has none of the suffixes"),
        (("--out", "there.jsonl"), "there.jsonl is there already; give another --out, or --overwrite"),
        (("--out", "."), ". has none of the suffixes"),
        (("--prompts", "no.txt"), "there is no file no.txt"),
        (("--prompts", "empty.jsonl"), "empty.jsonl is empty"),
        (("--model", "no/such/model"), "There is no model at no/such/model"),
        (("--model", " "), "--model is empty"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(local, options, said):
    Path("there.jsonl").write_text("precious")
    Path("empty.jsonl").write_text("")
    code, out, err = local(*options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert KEY not in err
    assert not leftovers()
    assert Path("there.jsonl").read_text() == "precious"


def test_an_output_is_replaced_when_asked(local):
    Path("a.jsonl").write_text("old")
    assert local("--overwrite")[0] == 0
    assert len(rows()) == 3


def test_two_cannot_write_the_same_output(local):
    from filelock import FileLock

    Path(".a.jsonl.work").mkdir()
    with FileLock(".a.jsonl.work/lock"):
        code, _, err = local()
    assert code == 2
    assert "another process is generating into a.jsonl" in err


def test_every_sampling_setting_is_an_option(generate):
    from sawyer.rollout.api_settings import ApiSettings
    from sawyer.rollout.sampling import Sampling

    code, out, _ = generate("--help")
    assert code == 0
    names = [*Sampling.model_fields, *ApiSettings.model_fields]
    assert len(set(names)) == len(names)
    for name in names:
        assert f"--{name.replace('_', '-')}" in out
    assert "Default: 1.0." in out
