"""The kernels in C compute what the torch operations do, and nobody needs a compiler."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sawyer.models import native
from sawyer.models.lean import slim
from sawyer.trees.logprobs import token_logprobs
from tests.kernels import assert_near_as_wholes, both_types, compiled, random, threads


def both(call, monkeypatch):
    """What `call` gives in C and in torch."""
    found = call()
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lambda dtype: None)
        return found, call()


def gradients(out, *leaves):
    return [out.detach(), *torch.autograd.grad(out, leaves, random(*out.shape, seed=7).to(out.dtype))]


@compiled
@both_types
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 33), (1, 150, 576), (300, 16)])
def test_norms(dtype, shape, monkeypatch):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = LlamaRMSNorm(shape[-1])

    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def call():
        block = Block()
        block.norm.weight.data = (1 + 0.1 * random(shape[-1], seed=1)).to(dtype)
        slim(block)
        x = random(*shape).requires_grad_()
        return gradients(block.norm(x), x, block.norm.weight)

    assert_near_as_wholes(*both(call, monkeypatch), dtype)


@compiled
@both_types
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 24), (1, 150, 64)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_gated_mlps(dtype, shape, bias, frozen, monkeypatch):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    def call():
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=shape[-1], intermediate_size=3 * shape[-1], num_attention_heads=1, mlp_bias=bias
        )
        block = nn.ModuleList([LlamaMLP(config)]).to(dtype)
        slim(block)
        x = (3 * random(*shape)).to(dtype).requires_grad_()
        if frozen:
            block.requires_grad_(False)
        return gradients(block[0](x), x, *(() if frozen else block.parameters()))

    assert_near_as_wholes(*both(call, monkeypatch), dtype)


@compiled
@both_types
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 3), (7, 61), (40, 5000), (2100, 50)])
@pytest.mark.parametrize("bias", [False, True])
def test_log_probs_of_scored_tokens(dtype, tokens, vocabulary, bias, monkeypatch):
    hidden, target = random(tokens, 16).to(dtype), torch.arange(tokens) * 7 % vocabulary

    def call():
        torch.manual_seed(0)
        head = nn.Linear(16, vocabulary, bias=bias).to(dtype)
        x = hidden.clone().requires_grad_()
        return gradients(token_logprobs(x, head, target), x, *head.parameters())

    found, expected = both(call, monkeypatch)
    assert_near_as_wholes(found, expected, dtype)
    if dtype == torch.float32:
        torch.testing.assert_close(found[0], expected[0], atol=5e-6, rtol=0)


@compiled
def test_a_settled_token_has_no_gradient_and_a_hopeless_one_all():
    head = nn.Linear(2, 4, bias=False)
    head.weight.data = torch.tensor([[60.0, 0.0], [0.0, 60.0], [0.0, 0.0], [-60.0, 0.0]])
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    found = token_logprobs(x, head, torch.tensor([0, 3]))
    expected = F.log_softmax(x.detach() @ head.weight.T, -1)[[0, 1], [0, 3]]
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 0.0], [-120.0, 0.0]]))


@compiled
@both_types
@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_threads_computes_the_same(dtype, count):
    c, eps = native.library(dtype), 1e-5
    x, weight = random(200, 576), (1 + 0.1 * random(576, seed=1)).to(dtype)
    gate, up, grad = (random(200, 576, dtype=dtype, seed=seed) for seed in (2, 3, 4))
    logits, target, picked = random(37, 5000, dtype=dtype, seed=5), torch.arange(37) * 170, random(37, seed=6)

    def results():
        out, scale = native.rms_norm(c, x, weight, eps)
        sums = native.softmax_sums(c, logits, target, picked)  # some targets lie in another tile
        normaliser = sums[0]
        grad_up = grad.clone()
        return [
            out, scale, *native.rms_norm_backward(c, grad, x, weight, scale), native.gated_silu(c, gate, up),
            native.gated_silu_backward(c, gate, up, grad_up), grad_up, sums,
            native.log_softmax_backward(c, logits.clone(), target, picked, normaliser, random(37, seed=7)),
        ]  # fmt: skip

    alone = results()
    with threads(count):
        together = results()
    assert all(map(torch.equal, alone, together))


def test_python_passes_what_the_functions_take():
    source = native._SOURCE.read_text()
    kinds = {"int64_t": ctypes.c_int64, "float": ctypes.c_float}
    for name, types in native._ARGUMENTS.items():
        (given,) = re.findall(rf"^void {name}\(([^)]*)\)", source, re.MULTILINE)
        expected = [ctypes.c_void_p if "*" in one else kinds[one.split()[0]] for one in given.split(",")]
        assert [ctypes.c_void_p if hasattr(kind, "contents") else kind for kind in types] == expected, name
    body = re.search(r"typedef struct \{(.*?)\} Attend;", source, re.DOTALL)[1]
    fields = re.findall(r"^ *(?:const )?(\w+) (\*?)(\w+);", body, re.MULTILINE)
    expected = [(name, ctypes.c_void_p if star else kinds[kind]) for kind, star, name in fields]
    assert list(native.Attend._fields_) == expected


@compiled
def test_another_openmp_is_told_from_torchs():
    assert native._openmp("libtorch_cpu.so") == native._openmp("libgomp.so.1") is not None
    assert native._openmp("libm.so.6") is None  # calls none
    assert native._openmp("libnothing.so") is None
    import sklearn

    for private in Path(sklearn.__file__).parents[1].glob("scikit_learn.libs/libgomp*"):
        ctypes.CDLL(str(private))
        assert native._openmp(private) not in (None, native._openmp("libtorch_cpu.so"))


@compiled
def test_what_was_linked_against_another_openmp_is_not_used(monkeypatch, tmp_path):
    without = tmp_path / "cc"
    without.write_text('#!/bin/sh\nfor a; do shift; [ "$a" = -fopenmp ] || set -- "$@" "$a"; done\nexec gcc "$@"\n')
    without.chmod(0o755)
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", str(without))
    with pytest.warns(UserWarning, match=r"links another OpenMP than torch's.*use gcc"):
        assert native.library.__wrapped__(torch.float32) is None
    monkeypatch.setattr(native, "_openmp", {"libtorch_cpu.so": 1, "libgomp.so.1": 2}.get)  # torch has its own
    assert native.library.__wrapped__(torch.float32) is None


@compiled
def test_what_is_not_dense_or_not_of_one_type_is_left_to_torch():
    x = torch.zeros(4, 4)
    assert native.usable(x, x) is not None
    assert native.usable(x, x.T) is None
    assert native.usable(x, x.to(torch.bfloat16)) is None
    assert native.usable(x.double()) is None
    assert native.usable(x.to("meta")) is None


def test_without_a_compiler_torch_does_it(monkeypatch, tmp_path):
    library = native.library.__wrapped__
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path))
    monkeypatch.setenv("SAWYER_NATIVE", "0")
    assert library(torch.float32) is None
    monkeypatch.delenv("SAWYER_NATIVE")
    assert library(torch.float16) is None
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.warns(UserWarning, match="torch does the same, slower"):
        assert library(torch.float32) is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert library(torch.float32) is None


@compiled
@both_types
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 1), (128, 32), (129, 33), (4097, 70)])
def test_transposes(dtype, shape):
    x = random(*shape).to(dtype)
    found = native.transposed(native.library(dtype), x)
    assert found.is_contiguous()
    assert torch.equal(found, x.T)
