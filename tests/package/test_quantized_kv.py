"""A package whose caches hold latents in float8: what it loses, keeps and computes from them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from archsmith.compiler.driver import Compiler
from kernels.launching import launching
from kernels.test_package import CLOSE
from package.tiny import EXAMPLES, Build, buffers, close, folder_of, fresh, prompt

PASSES = "O2,quantize-kv after compress-kv,fuse-dequantize after absorb-attention"
KERNELS = "add_project_quantized_latent", "quantized_attention", "rows_in_float8"
LATENT, ROPE, LAYERS = 136, 12, 2  # two blocks, of which the last is a part


def larger(page: str) -> str:
    page, found = re.subn(r"kv_lora_rank: \d+", f"kv_lora_rank: {LATENT}", page)
    assert found == 1
    return page.replace("{repeat: 2, block: sparse}", "{repeat: 1, block: sparse}")


class Built(NamedTuple):
    package: Any
    plain: Any
    weights: Path
    loss: float | None
    bytes_per_token: int


@pytest.fixture(scope="module")
def built(package: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """DeepSeek-V2 with a latent in float8, judged and proved."""
    root = tmp_path_factory.mktemp("quantized")
    plain = package("tiny-deepseek-v2", larger, "larger_latent")
    plain.save(fresh(plain, torch.float32), root / "weights")
    compiler = Compiler.installed("h200", numeric=False)
    (root / "page.yaml").write_text(larger((EXAMPLES / "tiny-deepseek-v2.yaml").read_text()))
    pipeline, passes = compiler.passes(PASSES)
    spec = compiler.load(root / "page.yaml")
    report = compiler.package(spec, root / "latent8", pipeline, passes, weights=root / "weights")
    assert report.proof is not None
    applied = {o.name: o.applications for o in report.outcomes}
    assert applied["fuse-dequantize"] == applied["fuse-append"] == LAYERS
    (loss,) = (o.loss for o in report.outcomes if o.name == "quantize-kv")
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    module = importlib.import_module("latent8")
    yield Built(module, plain, root / "weights", loss, report.cache_bytes_per_token)
    sys.path.remove(str(root))


def test_its_loss_is_small_and_measured(built: Built) -> None:
    assert built.loss is not None
    assert 1e-6 < built.loss < 0.02
    tokens = prompt(built.package)
    plain, narrow = (
        module.load(built.weights, dtype=torch.float64)(tokens)
        for module in (built.plain, built.package)
    )
    # Of most logits: a few tokens may be sent to other experts.
    assert 1e-3 < (plain - narrow).abs().median() / plain.abs().median() < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_its_caches_hold(built: Built, dtype: torch.dtype) -> None:
    cache = built.package.Model(built.package.Config(dtype=dtype)).new_cache(3, 20)
    scale = torch.promote_types(dtype, torch.float32)
    dtypes = {"kv_numbers": torch.float8_e4m3fn, "kv_scale": scale, "kv_rest": dtype}
    for layer in cache.buffers:
        assert {name: rows.dtype for name, rows in layer.items()} == dtypes
    row = LATENT + 2 * scale.itemsize + ROPE * dtype.itemsize
    assert cache.bytes_per_token == LAYERS * row
    assert cache.nbytes == 3 * 21 * LAYERS * row
    if dtype == torch.float32:  # as the spec's is
        assert cache.bytes_per_token == built.bytes_per_token


def test_all_ways_to_call_it_are_one(built: Built) -> None:
    """Training, prefill, decode and extend compute with the same numbers, whichever keeps them."""
    model, tokens = fresh(built.package), prompt(built.package, 3, 12)
    with torch.no_grad():
        wanted = model(tokens)
    cache = model.new_cache(3, 12)
    close(model.prefill(tokens[:, :6], cache, lengths=[6, 2, 4]), wanted[range(3), [5, 1, 3]])
    cache.truncate([2, 2, 2])
    close(model.decode(tokens[:, 2], cache), wanted[:, 2])
    close(model.extend(tokens[:, 3:9], cache), wanted[:, 3:9])
    kept = [rows.double() for rows in buffers(cache)]
    cache.truncate(4)
    for at in range(4, 12):
        close(model.decode(tokens[:, at], cache), wanted[:, at])
    for rows, before in zip(buffers(cache), kept, strict=True):
        close(rows[:, :9].double(), before[:, :9])
    with pytest.raises(ValueError, match="the cache's length is 12"):
        model.decode(tokens[:, 0], cache)


def test_its_kernels_compute_the_same(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of latents in float8, interpreted: a ragged prefill, then two tokens, and then one."""
    model, tokens = fresh(built.package, torch.float32), prompt(built.package, 2, 12)

    def answers() -> list[torch.Tensor]:
        cache = model.new_cache(2, 12)
        first = model.prefill(tokens[:, :9], cache, lengths=[9, 3])
        found = [first, model.extend(tokens[:, 9:11], cache), model.decode(tokens[:, 11], cache)]
        return found + [rows[:, :12].float() for rows in buffers(cache)]

    wanted = answers()
    module, calls = sys.modules["latent8.model"], list[str]()
    for kernel in KERNELS:
        monkeypatch.setattr(module, kernel, launching(getattr(module, kernel), calls))
    for x, y in zip(answers(), wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=CLOSE, atol=CLOSE)
    assert {*calls} == {*KERNELS}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_tests_that_it_carries(
    built: Built, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = importlib.import_module("latent8.tests.on_gpu")
    monkeypatch.setattr(tests, "DEVICE", "cpu")
    monkeypatch.setattr(tests, "CALLS", ((2, 3, 5),))
    monkeypatch.setattr(tests, "DECODE", ((2, 2, 5),))
    test = getattr(tests.TritonTest(f"test_{kernel}"), f"test_{kernel}")
    calls: list[str] = []
    call = launching(getattr(tests, kernel), calls)
    monkeypatch.setattr(tests, kernel, call)
    test()
    assert calls

    def wrong(*operands: Any, **options: Any) -> Any:
        found = call(*operands, **options)
        first = found[0] if isinstance(found, tuple) else found
        if operands[0].dtype != torch.float64:
            first.copy_(first.float() * 1.1)
        return found

    monkeypatch.setattr(tests, kernel, wrong)
    with pytest.raises(AssertionError, match="they differ by"):
        test()


def test_a_model_in_another_dtype(built: Built) -> None:
    model = fresh(built.package).to(torch.bfloat16)
    tokens = prompt(built.package)
    cache = model.new_cache(2, 9)
    logits = model.prefill(tokens, cache)
    assert logits.dtype == torch.bfloat16
    exact = model.double()(tokens)[:, -1]
    assert (logits.double() - exact).abs().max() < 0.1 * exact.abs().max()


def test_gradients_pass_as_if_nothing_were_rounded(built: Built) -> None:
    rows = importlib.import_module("latent8.kernels.quantized_rows")
    x = torch.randn(2, 5, 20, dtype=torch.float64, requires_grad=True)
    rest = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    made = rows.dequantize_rows(*rows.quantize_rows(x, 8), rest, 8)
    weight = torch.randn_like(made)
    made.backward(weight)
    torch.testing.assert_close(x.grad, weight[..., :20], rtol=1e-12, atol=1e-12)
    assert torch.equal(rest.grad, weight[..., 20:])
    narrow = rows.quantize_rows(x.detach(), 8)
    assert narrow[0].dtype == torch.float8_e4m3fn
    assert torch.equal(rows.dequantize_rows(*narrow, rest, 8), made)
    model = fresh(built.package)
    model(prompt(built.package)).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_weights_are_saved_as_they_were(built: Built, tmp_path: Path) -> None:
    model = built.package.load(built.weights, dtype=torch.float32)
    built.package.save(model, tmp_path / "again")
    again = built.plain.load(tmp_path / "again").state_dict()
    for name, weight in built.plain.load(built.weights).state_dict().items():
        assert torch.equal(weight, again[name]), name


def test_it_reads_well(built: Built) -> None:
    for command in (["format", "--check"], ["check", "--select=F,I,UP,B"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ruff",
                *command,
                "--isolated",
                "--line-length=100",
                folder_of(built.package),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
