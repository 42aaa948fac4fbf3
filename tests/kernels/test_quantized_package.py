"""A package for a GPU with experts in 8 bits: what it calls, and what its own tests draw."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.package import Facts, emit
from kernels.launching import as_on_a_gpu
from kernels.quantized_cases import rounding

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-deepseek-v3.yaml"


def test_what_it_tries_on_a_gpu_agrees_in_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Compiler.installed("h200", numeric=False)
    _, passes = compiler.passes("O2,quantize-experts{activations=true}")
    model = compiler.build(compiler.load(EXAMPLE))
    model, _ = compiler.rewrite(model, passes, lambda before, after: {"perplexity": 0.0})
    plan = compiler.schedule(model)
    chosen = {c.kernel.name for c in plan.choices if c.op.name == "quantized_experts"}
    assert chosen == {"triton.quantized_gemm"}
    name = "tried_experts"
    for path, text in emit(
        plan, compiler.registry.templates, Facts("0", 1, 1, 1, "", "", {})
    ).items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_text(text)
    sys.path.insert(0, str(tmp_path))
    try:
        importlib.invalidate_caches()
        tried = importlib.import_module(f"{name}.tests.on_gpu")
    finally:
        sys.path.remove(str(tmp_path))
    as_on_a_gpu(tried, monkeypatch)
    tests = tried.TritonTest("test_grouped_quantized_experts")
    tests.setUp()
    with rounding():
        tests.test_grouped_quantized_experts()
