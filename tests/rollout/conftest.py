import pytest
import torch

from sawyer.data.chat import ChatFormat
from tests.rollout.decoders import tiny_chat, tiny_model


@pytest.fixture(scope="session")
def chat() -> ChatFormat:
    return tiny_chat()


@pytest.fixture(scope="session")
def llama() -> torch.nn.Module:
    return tiny_model("Llama")
