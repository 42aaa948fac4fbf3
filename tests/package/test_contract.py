"""What a package promises: its names, its sizes, every dtype, gradients, and compilation."""

from __future__ import annotations

import inspect
import json
from types import ModuleType

import pytest
import torch
from package.tiny import TINY, Build, buffers, close, folder_of, fresh, prompt

BILLIONS = {
    "deepseek-v2-lite": 15.71,
    "deepseek-v2": 235.74,
    "deepseek-v3": 671.03,
    "mixtral-8x7b": 46.70,
    "qwen3-30b-a3b": 30.53,
    "llama-3-8b": 8.03,
}


def test_the_names_of_a_package(any_package: ModuleType) -> None:
    names = {"Cache", "Config", "DecodeStep", "Model", "generate", "load", "save", "stream"}
    routed = hasattr(any_package.model, "router") or hasattr(any_package.model, "route")
    assert set(any_package.__all__) == names | ({"balance"} if routed else set())
    assert any_package.__doc__
    parameters = inspect.signature(any_package.generate).parameters
    defaults = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert list(parameters)[:2] == ["model", "tokens"]
    assert defaults == {
        "max_new_tokens": 64,
        "temperature": 0.0,
        "top_p": 1.0,
        "lengths": None,
        "eos": None,
        "generator": None,
    }
    load = inspect.signature(any_package.load).parameters
    assert {name: p.default for name, p in load.items() if name != "folder"} == {
        "device": "cpu",
        "dtype": None,
    }
    for name, arguments in {
        "forward": ["tokens"],
        "new_cache": ["batch", "length"],
        "prefill": ["tokens", "cache", "lengths"],
        "decode": ["token", "cache"],
        "extend": ["tokens", "cache"],
    }.items():
        method = getattr(any_package.Model, name)
        assert list(inspect.signature(method).parameters)[1:] == arguments
    assert list(inspect.signature(any_package.Cache.truncate).parameters)[1:] == ["lengths"]


@pytest.mark.parametrize("example", BILLIONS)
def test_published_sizes_on_the_meta_device(package: Build, example: str) -> None:
    built = package(example)
    with torch.device("meta"):
        model = built.Model(built.Config())
    count = sum(weight.numel() for weight in model.state_dict().values())
    assert count / 1e9 == pytest.approx(BILLIONS[example], abs=0.005)
    assert all(parameter.is_meta for parameter in model.parameters())
    plan = json.loads((folder_of(built) / "plan.json").read_text())
    assert plan["parameters"] == count
    cache = model.new_cache(batch=1, length=2)
    assert cache.bytes_per_token == plan["cache_bytes_per_token"]
    assert all(buffer.is_meta for buffer in buffers(cache))


@pytest.mark.parametrize("example", TINY)
def test_a_plan_counts_what_the_model_has(package: Build, example: str) -> None:
    built = package(example)
    plan = json.loads((folder_of(built) / "plan.json").read_text())
    model = fresh(built, built.Config().dtype)
    assert plan["parameters"] == sum(w.numel() for w in model.state_dict().values())
    assert plan["cache_bytes_per_token"] == model.new_cache(1, 3).bytes_per_token


def test_tied_parameters_count_once(package: Build) -> None:
    built = package("tiny-llama")
    untied = package("tiny-llama", lambda page: page.replace("tied: true", "tied: false"), "untied")
    one, two = (
        dict(package.Model(package.Config()).named_parameters()) for package in (built, untied)
    )
    assert two.keys() - one.keys() == {"head"}
    assert sum(p.numel() for p in two.values()) - sum(p.numel() for p in one.values()) == (
        one["embed"].numel()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_floating_dtype_runs_on_a_cpu(any_package: ModuleType, dtype: torch.dtype) -> None:
    model, exact = fresh(any_package, dtype), fresh(any_package)
    exact.load_state_dict(model.state_dict())
    tokens = prompt(any_package)
    cache = model.new_cache(2, 9)
    assert {buffer.dtype for buffer in buffers(cache)} == {dtype}
    found = [model.prefill(tokens[:, :8], cache), model.decode(tokens[:, 8], cache)]
    with torch.no_grad():
        wanted = exact(tokens)[:, 7:]
    for t, logits in enumerate(found):
        assert logits.dtype == dtype
        # Logits are of order one; of a low dtype a near tie may route a token elsewhere.
        error = (logits.double() - wanted[:, t]).abs().median()
        assert error < 100 * torch.finfo(dtype).eps


def test_a_model_may_change_its_dtype(package: Build) -> None:
    built = package("tiny-deepseek-v3")
    model = fresh(built).to(torch.bfloat16)
    cache = model.new_cache(2, 9)
    assert {buffer.dtype for buffer in buffers(cache)} == {torch.bfloat16}
    assert model.prefill(prompt(built), cache).dtype == torch.bfloat16


@pytest.mark.parametrize("example", TINY)
def test_gradients_reach_every_trained_parameter(package: Build, example: str) -> None:
    built = package(example)
    model, tokens = fresh(built), prompt(built, 4, 24)
    logits = model(tokens)[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    biases = [name for name, _ in model.named_buffers()]  # they steer choices: no gradient
    assert biases == (
        ["layers.1.router_bias", "layers.2.router_bias"] if example == "tiny-deepseek-v3" else []
    )


def test_gradients_are_those_of_a_small_step(package: Build) -> None:
    built = package("tiny-deepseek-v3")
    model, tokens = fresh(built), prompt(built, 1, 6)

    def loss() -> torch.Tensor:
        return model(tokens).logsumexp(-1).sum()

    loss().backward()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        step = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            parameter += 1e-6 * step
            after = loss()
            parameter -= 2e-6 * step
            before = loss()
            parameter += 1e-6 * step
        slope = (after - before) / 2e-6
        torch.testing.assert_close((parameter.grad * step).sum(), slope, rtol=1e-5, atol=1e-6)


def test_inference_records_no_gradients(any_package: ModuleType) -> None:
    model, tokens = fresh(any_package), prompt(any_package)
    assert model(tokens).requires_grad
    cache = model.new_cache(2, 20)
    assert not model.prefill(tokens, cache).requires_grad
    assert not model.decode(tokens[:, 0], cache).requires_grad
    assert not model.extend(tokens, cache).requires_grad
    assert not any(buffer.requires_grad for buffer in buffers(cache))


@pytest.mark.parametrize("example", ["tiny-llama", "tiny-deepseek-v3"])
@pytest.mark.filterwarnings("default")  # of the compiler's own
def test_decode_compiles_in_one_graph(package: Build, example: str) -> None:
    built = package(example)
    model, tokens = fresh(built), prompt(built)
    compiled = torch.compile(model.decode, backend="eager", fullgraph=True)
    ours, plain = model.new_cache(2, 12), model.new_cache(2, 12)
    model.prefill(tokens, ours)
    model.prefill(tokens, plain)
    for t in range(3):
        close(compiled(tokens[:, t], ours), model.decode(tokens[:, t], plain))
