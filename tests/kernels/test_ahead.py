"""Kernels compiled ahead of time: the configurations of published models, for every target."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.aot import Compiled, calls_of, compile_ahead, compile_package
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.errors import ArchsmithError, ProofError
from archsmith.compiler.schedule.select import Plan

EXAMPLES = Path(__file__).parents[2] / "examples"
OLDEST = Path(sys.prefix) / "triton-3.6"  # beside the newest, which the environment has
FACTS = Facts("0", 1, 1, 1, "", "O2", {})

# What each target multiplies tiles with: of 64 rows and more, and of fewer.
INSTRUCTIONS = {
    "a100": ("mma.sync", "mma.sync"),
    "h200": ("wgmma.mma_async", "mma.sync"),
    "b200": ("tcgen05.mma", "mma.sync"),
    "mi300x": ("v_mfma", "v_mfma"),
}


def planned(example: str, target: str) -> Plan:
    compiler = Compiler.installed(target, numeric=False)
    _, passes = compiler.passes("O2")
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    model, _ = compiler.rewrite(compiler.build(spec), passes)
    return compiler.schedule(model)


def templates() -> Any:
    return Compiler.installed().registry.templates


def compiled(plan: Plan, environment: dict[str, str] | None = None) -> list[Compiled]:
    assert plan.target.triton is not None
    files = emit(plan, templates(), FACTS)
    script = templates()["compile.py"]
    return compile_ahead(files, calls_of(plan), plan.target.triton, script, environment or {})


def hold(plan: Plan, found: list[Compiled]) -> None:
    """Assert that kernels fit the target, spill nothing and multiply as it does best."""
    wide, narrow = INSTRUCTIONS[plan.target.name]
    files = {kernel.stem() for kernel in plan.emitted() if kernel.triton}
    assert {kernel.file for kernel in found} == files
    rows = set()
    for kernel in found:
        assert kernel.shared <= plan.target.shared_memory, kernel
        assert kernel.spills == 0, kernel
        block = kernel.options.get("BLOCK_M")
        if block is not None and kernel.instructions:
            rows.add(block)
            assert set(kernel.instructions) == {wide if block >= 64 else narrow}, kernel
    assert min(rows) < 64 <= max(rows)
    products = [k for k in found if k.options.get("BLOCK_M") and k.kernel != "_sort"]
    assert all(kernel.instructions for kernel in products)


@pytest.mark.parametrize(
    ("example", "target"),
    [
        *(("deepseek-v2-lite", target) for target in INSTRUCTIONS),
        *(("llama-3-8b", target) for target in INSTRUCTIONS),
        ("qwen3-30b-a3b", "h200"),
        ("deepseek-v3", "h200"),
        ("mixtral-8x7b", "a100"),
    ],
)
def test_the_newest_triton(example: str, target: str) -> None:
    plan = planned(example, target)
    hold(plan, compiled(plan))


@pytest.mark.parametrize("target", ["a100", "h200", "mi300x"])
def test_the_oldest_triton(target: str) -> None:
    assert OLDEST.is_dir(), "`make env` installs the oldest Triton that is supported"
    plan = planned("deepseek-v2-lite", target)
    hold(plan, compiled(plan, {"PYTHONPATH": str(OLDEST)}))


def test_two_builds_give_the_same_bytes() -> None:
    plan = planned("llama-3-8b", "h200")
    one, other = compiled(plan), compiled(plan, {"PYTHONHASHSEED": "1"})
    assert [kernel.sha256 for kernel in one] == [kernel.sha256 for kernel in other]
    assert one == other


def test_what_needs_more_memory_than_there_is_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Compiled("rope", "_rope", {"HEADS": 4}, 32, 0, 10**6, {}, 5000, "")
    monkeypatch.setattr("archsmith.compiler.emit.aot.compile_ahead", lambda *_: [large])
    with pytest.raises(ProofError, match=r"_rope of kernels/rope\.py needs 1000000 bytes of"):
        compile_package(planned("llama-3-8b", "h200"), templates(), FACTS)


def test_what_does_not_compile_is_found() -> None:
    plan = planned("llama-3-8b", "h200")
    assert plan.target.triton is not None
    files = emit(plan, templates(), FACTS)
    rope = files["kernels/rope.py"]
    files["kernels/rope.py"] = rope.replace("tl.arange(0, PAIRS)", "tl.arange(0, 3)")
    assert files["kernels/rope.py"] != rope
    calls = [call for call in calls_of(plan) if call["file"] == "rope"]
    with pytest.raises(ProofError, match="a kernel does not compile"):
        compile_ahead(files, calls, plan.target.triton, templates()["compile.py"])


def test_a_target_without_triton_says_so() -> None:
    with pytest.raises(ArchsmithError, match="has no Triton\n  = help: build for a GPU"):
        compile_package(planned("tiny-llama", "cpu"), templates(), FACTS)
