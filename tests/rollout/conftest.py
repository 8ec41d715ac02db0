from typing import Any

import pytest
import torch

from sawyer.data.chat import ChatFormat
from sawyer.rollout.api_engine import ApiEngine
from sawyer.rollout.api_settings import ApiSettings
from tests.rollout import fake_vllm
from tests.rollout.chat_server import KEY, ChatServer, FakeTime
from tests.rollout.decoders import tiny_chat, tiny_model


@pytest.fixture(scope="session")
def chat() -> ChatFormat:
    return tiny_chat()


@pytest.fixture(scope="session")
def llama() -> torch.nn.Module:
    return tiny_model("Llama")


@pytest.fixture
def serve(monkeypatch):
    """`serve(answer, delay)`: a running chat server, stopped at the end; the key it wants is in the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    servers: list[ChatServer] = []

    def start(*arguments: Any, **options: Any) -> ChatServer:
        servers.append(ChatServer(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def engine_on(time):
    def make(server, *, cache=None, model="m", **settings):
        endpoint = server if isinstance(server, str) else server.url
        settings = ApiSettings(endpoint=endpoint, **settings)
        return ApiEngine(model, settings, cache=cache, sleep=time.sleep, clock=time.clock)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A saved Llama with its tokenizer."""
    path = tmp_path_factory.mktemp("llama")
    tiny_model("Llama").save_pretrained(path)
    tiny_chat().save(path)
    return str(path)


@pytest.fixture
def vllm(monkeypatch):
    """What stands in for the package."""
    fake_vllm.install(monkeypatch)
    return fake_vllm
