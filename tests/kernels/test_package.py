"""A whole package with its Triton kernels interpreted, and the tests it carries of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from kernels.launching import as_on_a_gpu, launching

EXAMPLES = Path(__file__).parents[2] / "examples"
# Of sums in float32 in another order, over a few layers.
CLOSE = 1e-5
# Kernels whose gradients are kernels too.
DENSE = ("add_rms_norm", "fused_linear_cross_entropy", "gated_activation", "prefill_attention")
DENSE += ("rope",)
SMALL = {"tiny-llama": DENSE, "tiny-deepseek-v2": (*DENSE, "grouped_experts", "rms_norm")}
FAKED = ("test_schema", "test_faketensor")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """Builds an example in float32 for a GPU, and imports it."""
    root = tmp_path_factory.mktemp("interpreted")
    compiler = Compiler.installed("h200", numeric=False)

    def build(example: str) -> ModuleType:
        example, _, pipeline = example.partition(" ")
        pipeline, passes = compiler.passes(pipeline or "O2")
        page = root / f"{example}.yaml"
        text = (EXAMPLES / f"{example}.yaml").read_text()
        for said, meant in (
            ("dtype: bfloat16", "dtype: float32"),
            ("repeat: 2", "repeat: 1"),  # a layer of each kind, and a second where all are one
            ("repeat: 3", "repeat: 2"),
        ):
            text = text.replace(said, meant)
        page.write_text(text)
        folder = root / f"gpu_{example.replace('-', '_')}_{pipeline}"
        compiler.package(compiler.load(page), folder, pipeline, passes, prove=False)
        importlib.invalidate_caches()
        return importlib.import_module(folder.name)

    sys.path.insert(0, str(root))
    yield build
    sys.path.remove(str(root))


@pytest.mark.parametrize("example", ["tiny-deepseek-v3", "tiny-mixtral", "tiny-qwen3-moe"])
def test_a_model_computes_the_same_with_its_kernels(
    built: Callable[[str], ModuleType], example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = built(example)
    torch.manual_seed(0)
    model = package.Model(package.Config())
    tokens = torch.randint(0, package.Config.vocab_size, (2, 12))

    def answers() -> list[torch.Tensor]:
        cache = model.new_cache(batch=2, length=12)
        first = model.prefill(tokens[:, :9], cache, lengths=[9, 3])
        more = model.extend(tokens[:, 9:11], cache)
        last = model.decode(tokens[:, 11], cache)
        with torch.no_grad():
            return [first, more, last, model(tokens), model.loss(tokens, tokens)]

    wanted = answers()
    calls: list[str] = []
    module = sys.modules[f"{package.__name__}.model"]
    kernels = {n: f for n, f in vars(module).items() if hasattr(f, "registered")}
    for key, function in kernels.items():
        monkeypatch.setattr(module, key, launching(function, calls))
    found = answers()
    assert kernels
    assert set(calls) == set(kernels)
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("example", ["tiny-llama", "tiny-deepseek-v2"])
def test_the_tests_that_a_package_carries(
    built: Callable[[str], ModuleType], example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = built(example)
    tests = importlib.import_module(f"{package.__name__}.tests.on_gpu")
    kernels = {n: f for n, f in vars(tests).items() if hasattr(f, "registered")}
    calls = as_on_a_gpu(tests, monkeypatch)
    monkeypatch.setattr(tests, "CALLS", ((1, 1, 1), (2, 3, 5)))
    monkeypatch.setattr(tests, "DECODE", ((2, 1, 5), (2, 2, 5)))
    named = [name for name in dir(tests.TritonTest) if name.startswith("test_")]
    assert {name.removeprefix("test_") for name in named} == set(kernels)
    for name in named:
        getattr(tests.TritonTest(name), name)()
    assert set(calls) == set(kernels)

    # They see a kernel that is off by a hundredth, and one that is never launched.
    (key, function), *_ = kernels.items()

    def wrong(x: torch.Tensor, *others: Any, **options: Any) -> Any:
        found = function(x, *others, **options)
        return found if x.dtype == torch.float64 else tuple(y * 1.01 for y in found)

    def idle(*operands: Any, **options: Any) -> Any:
        return function.reference(*operands, **options)

    for broken, said in ((wrong, "they differ by"), (idle, f"{key} was not launched")):
        broken.__name__, broken.reference = key, function.reference
        monkeypatch.setattr(tests, key, broken)
        with pytest.raises(AssertionError, match=said):
            getattr(tests.TritonTest(f"test_{key}"), f"test_{key}")()


@pytest.mark.parametrize("example", ["tiny-llama", "tiny-deepseek-v2"])
def test_kernels_have_gradients(
    built: Callable[[str], ModuleType], example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = built(example)
    torch.manual_seed(0)
    model = package.Model(package.Config())
    tokens = torch.randint(0, package.Config.vocab_size, (2, 5))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model.loss(tokens, tokens.flip(1)).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    wanted = gradients()
    assert len(wanted) > 10
    launch_all(package, monkeypatch)
    calls = count_gradients(package, monkeypatch)
    found = gradients()
    assert set(calls) == {function.__name__ for function in gradients_of(package)}
    assert set(calls) >= {f"{name}_gradients" for name in SMALL[example]}
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_compiled_model_is_one_graph(
    built: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts included, whose path in PyTorch has to look at values."""
    package = built("tiny-deepseek-v2")
    torch.manual_seed(0)
    model = package.Model(package.Config())
    tokens = torch.randint(0, package.Config.vocab_size, (2, 5))
    launch_all(package, monkeypatch)
    compiled = torch.compile(model.__call__, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        wanted, found = model(tokens), compiled(tokens)
    torch.testing.assert_close(found, wanted, rtol=CLOSE, atol=CLOSE)


def test_a_training_step_is_one_graph(
    built: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled as a whole, with the kernels' gradients in it, which are those of PyTorch."""
    example = "tiny-deepseek-v2"
    package = built(example)
    torch.manual_seed(0)
    model = package.Model(package.Config())
    tokens = torch.randint(0, package.Config.vocab_size, (1, 3))

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        return model.loss(tokens, tokens.flip(1))

    def gradients(function: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        return list(torch.autograd.grad(function(tokens), list(model.parameters())))

    wanted = gradients(loss)
    launch_all(package, monkeypatch)
    calls = count_gradients(package, monkeypatch)
    found = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"))
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)
    assert set(calls) == {f"{name}_gradients" for name in SMALL[example]}


def test_gradients_are_operators(built: Callable[[str], ModuleType]) -> None:
    """Their shapes are known without computing, also where some are not wanted."""
    files = sys.modules[f"{built('tiny-llama').__name__}.kernels"]
    row, gain, gate = torch.randn(2, 3, 72), torch.randn(72), torch.randn(2, 3, 168)
    head, table = torch.randn(2, 3, 6, 12), torch.randn(2, 3, 6)
    check = torch.library.opcheck
    for wanted in ([True, True], [True, False], [False, True]):
        norm = files.add_rms_norm_gradients.add_rms_norm_gradients.registered
        check(norm, (row, gain, 1e-5, row, row, wanted), test_utils=FAKED)
        gated = files.gated_activation_gradients.gated_activation_gradients.registered
        check(gated, (gate, gate, "silu", gate, wanted), test_utils=FAKED)
    turned = sys.modules[f"{files.__name__}.rope"].rope_gradients
    given = head, table, table, False, head
    check(turned.registered, (*given, [True, False, False]), test_utils=FAKED)
    with pytest.raises(ValueError, match="detach cos and sin"):
        turned.launch(*given, [True, True, False])


def count_gradients(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels of gradients, as they are launched."""
    calls: list[str] = []

    def counted(name: str, registered: Any) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            calls.append(name)
            return registered(*given)

        return call

    for function in gradients_of(package):
        monkeypatch.setattr(function, "registered", counted(function.__name__, function.registered))
    return calls


def gradients_of(package: ModuleType) -> list[Any]:
    """The functions of a package that launch kernels of gradients."""
    files = [m for n, m in sys.modules.items() if n.startswith(f"{package.__name__}.kernels.")]
    found = {key: f for m in files for key, f in vars(m).items() if key.endswith("_gradients")}
    return [found[key] for key in sorted(found) if hasattr(found[key], "registered")]


def launch_all(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package's model launch its kernels on a CPU too."""
    module = sys.modules[f"{package.__name__}.model"]
    for key, function in list(vars(module).items()):
        if hasattr(function, "registered"):
            monkeypatch.setattr(module, key, function.registered)


def test_frozen_weights_and_what_has_no_gradient_of_its_own(
    built: Callable[[str], ModuleType],
) -> None:
    package = built("tiny-llama")
    norm = sys.modules[f"{package.__name__}.kernels"].add_rms_norm
    width = package.Config.hidden_size
    x, residual = torch.randn(2, 3, width), torch.randn(2, 3, width)
    gain = torch.ones(width, requires_grad=True)
    total, normed = norm.registered(x, residual, gain, 1e-6)
    normed.sum().backward()  # neither total nor x has a gradient
    found, gain.grad = gain.grad, None
    norm.reference(x, residual, gain, 1e-6)[1].sum().backward()
    torch.testing.assert_close(found, gain.grad)
    assert not total.requires_grad or total.grad_fn is not None


def test_a_gradient_of_a_gradient_is_an_error(built: Callable[[str], ModuleType]) -> None:
    package = built("tiny-llama")
    norm = sys.modules[f"{package.__name__}.kernels"].add_rms_norm
    width = package.Config.hidden_size
    x = torch.randn(2, 3, width, requires_grad=True)
    y = norm.registered(x, x.detach(), torch.ones(width), 1e-6)[1].square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_operands_need_not_be_dense(built: Callable[[str], ModuleType]) -> None:
    kernels = sys.modules[f"{built('tiny-deepseek-v2').__name__}.kernels"]
    shape = next(k for k in sys.modules[f"{kernels.__name__}.rms_norm_linear"].TILES if k[0] > 1)
    gate_up, width = torch.randn(shape), shape[-1]
    x, gain = torch.randn(9, width, 2).transpose(1, 2), torch.randn(2 * width)[::2]
    found = kernels.add_rms_norm.registered(x, x, gain, 1e-6)
    wanted = kernels.add_rms_norm.reference(x, x, gain, 1e-6)
    torch.testing.assert_close(found, wanted, rtol=CLOSE, atol=CLOSE)
    torch.library.opcheck(kernels.add_rms_norm.registered, (x, x, gain, 1e-6))
    for row in (x[:1, :1], x):  # in one launch, and in several
        given = row, row, gate_up, gain, 1e-6, 0.0, "silu"
        torch.library.opcheck(kernels.add_rms_norm_linear.registered, given, test_utils=FAKED)


def test_what_there_is_no_kernel_for_is_an_error(built: Callable[[str], ModuleType]) -> None:
    package = built("tiny-deepseek-v2")
    kernels = sys.modules[f"{package.__name__}.kernels"]
    with pytest.raises(ValueError, match="no kernel for the activation 'gelu'"):
        kernels.gated_activation.launch(torch.ones(1, 1, 8), torch.ones(1, 1, 8), "gelu")
    with pytest.raises(ValueError, match="no kernel for pairs that are neighbours"):
        kernels.rope.launch(torch.ones(1, 1, 8), torch.ones(1, 1, 4), torch.ones(1, 1, 4), True)
    with pytest.raises(TypeError):
        kernels.add_rms_norm.launch(*(torch.ones(1, 1, 8) for _ in range(3)), 1e-6, offset=1.0)
