"""`sawyer generate`, with a tiny model and with a server on this machine."""

import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from sawyer.data.files import raw_rows, write_rows
from sawyer.rollout.torch_engine import TorchEngine
from tests.rollout import fake_vllm
from tests.rollout.chat_server import KEY, completion, echo, refusal

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("What is a river?\nWhat is a town?\nWhat is a bridge?\n")


@pytest.fixture
def command(command):
    """Runs `sawyer generate ...`; returns exit code, stdout and stderr."""
    return partial(command, "generate")


@pytest.fixture
def local(command, saved_policy, capsys):
    """`local(*options)`: three prompts answered by a tiny model."""
    model = saved_policy("llama")
    capsys.readouterr()  # a progress bar of transformers

    def call(*options, prompts="p.txt", out="a.jsonl"):
        return command("--model", model, "--prompts", prompts, "--out", out, "--max-tokens", 6, *options)

    return call


@pytest.fixture
def remote(command):
    def call(server, *options, prompts="p.txt", out="a.jsonl"):
        where = ("--endpoint", server.url, "--model", "m", "--retries", 0)
        return command(*where, "--prompts", prompts, "--out", out, *options)

    return call


def rows(file="a.jsonl"):
    return [row.value for row in raw_rows(file)]


def leftovers():
    return [path.name for path in Path().iterdir() if path.name.startswith(".")]


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


def test_a_model_without_a_chat_template_is_asked_plainly(command, saved_policy, tmp_path):
    model = Path(saved_policy("gpt2"))
    for file in model.glob("*template*"):
        file.unlink()
    config = model / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}))
    code, _, err = command("--model", model, "--prompts", "p.txt", "--out", "a.jsonl", "--max-tokens", 3)
    assert code == 0, err
    assert "no chat template" in err


def stopping_after(calls, monkeypatch):
    """Lets the engine generate so many chunks, and then no more."""
    original, made = TorchEngine.generate, []

    def generate(self, *arguments, **options):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append([prompt.text for prompt in arguments[0]])
        return original(self, *arguments, **options)

    monkeypatch.setattr(TorchEngine, "generate", generate)
    return made


def test_an_interrupted_generation_continues_to_the_same_output(local, monkeypatch):
    options = ("--n", 2, "--batch", 1)
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


@pytest.mark.parametrize("other", [("--seed", 1), ("--temperature", 0.5), ("--precision", "bf16"), ("--system", "x")])
def test_chunks_of_other_options_are_not_taken(local, monkeypatch, other):
    with monkeypatch.context() as patch:
        stopping_after(2, patch)
        local("--batch", 1, "--n", 2)
    made = stopping_after(99, monkeypatch)
    assert local("--batch", 1, "--n", 2, *other)[0] == 0
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


def test_every_sampling_setting_is_an_option(command):
    from sawyer.rollout.api_settings import ApiSettings
    from sawyer.rollout.sampling import Sampling

    code, out, _ = command("--help")
    assert code == 0
    names = [*Sampling.model_fields, *ApiSettings.model_fields]
    assert len(set(names)) == len(names)
    for name in names:
        assert f"--{name.replace('_', '-')}" in out
    assert "Default: 1.0." in out


# --- remote -----------------------------------------------------------------------------------------------------------


def test_a_remote_model_answers_in_text(remote, serve):
    server = serve()
    code, out, err = remote(server, "--n", 2, "--json", "--price-out", 100, "--max-tokens", 6)
    assert code == 0, err
    assert [row["samples"][0]["text"].split("/")[0] for row in rows()] == [
        row["prompt"][0]["content"] for row in rows()
    ]
    summary = json.loads(out)
    assert summary["ledger"]["tokens_out"] == 30
    assert summary["ledger"]["cost"] == pytest.approx(0.003)
    assert server.requests[0]["max_tokens"] == 6
    assert KEY not in out + err
    assert not leftovers()
    assert remote(server, out="a.parquet")[0] == 0
    assert rows("a.parquet")[0]["samples"][0]["ids"] == []


def test_a_refused_prompt_is_reported_and_the_rest_is_kept(remote, serve):
    server = serve(lambda r: refusal(400, "too long") if "town" in r["messages"][-1]["content"] else echo(r))
    code, _, err = remote(server)
    assert code == 3
    assert "row 2: the endpoint refuses the request (400: too long); mend the prompt or the options" in err
    assert [row["row"] for row in rows()] == [1, 3]


def test_an_endpoint_that_fails_halfway_is_continued(remote, serve):
    server = serve(lambda r: refusal(500, "oops") if "bridge" in r["messages"][-1]["content"] else echo(r))
    code, _, err = remote(server, "--concurrency", 1)
    assert code == 2
    assert "what is answered is kept: run the same command again to go on" in err
    assert err.count("error: ") == 1
    server.answer = echo
    assert remote(server)[0] == 0
    assert len(server.requests) == 4
    assert len(rows()) == 3


def test_a_cache_outlives_the_generation(remote, serve):
    server = serve()
    assert remote(server, "--cache", "answers")[0] == 0
    assert remote(server, "--cache", "answers", out="b.jsonl")[0] == 0
    assert len(server.requests) == 3
    assert rows() == rows("b.jsonl")


def test_a_killed_generation_asks_only_for_what_is_missing(remote, serve, tmp_path):
    Path("p.txt").write_text("".join(f"prompt {i}\n" for i in range(30)))
    halt = threading.Event()
    answered = []

    def answer(request):
        if len(answered) >= 10:
            halt.wait(30)
            return None
        answered.append(request["messages"][-1]["content"])
        return completion(answered[-1])

    server = serve(answer)
    words = ("--endpoint", server.url, "--model", "m", "--prompts", "p.txt", "--out", "a.jsonl", "--concurrency", "2")
    process = subprocess.Popen([sys.executable, "-m", "sawyer", "generate", *words], env=_environment())
    deadline = time.monotonic() + 60
    while len(server.requests) < 12 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    halt.set()
    assert len(answered) == 10
    server.answer = lambda request: answered.append(request["messages"][-1]["content"]) or completion(answered[-1])
    code, _, err = remote(server, "--concurrency", 2)
    assert code == 0, err
    assert [row["samples"][0]["text"] for row in rows()] == [f"prompt {i}" for i in range(30)]
    assert len(answered) == 30
    assert not leftovers()
    for file in Path().rglob("*"):
        assert not file.is_file() or KEY not in file.read_text()


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
