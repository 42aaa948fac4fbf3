"""Kernels compiled ahead of time: the configurations of published models, for every target."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.aot import Compiled, calls_of, compile_ahead, compile_package
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.errors import ArchsmithError, ProofError
from archsmith.compiler.schedule.plan import Plan
from kernels.recorded import Ahead

EXAMPLES = Path(__file__).parents[2] / "examples"
PUBLISHED = ("deepseek-v2-lite", "llama-3-8b", "qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b")
FACTS = Facts("0", 1, 1, 1, "", "O2", {})

# What each target multiplies tiles with: of 64 rows and more, of a tile's or of its weights, and
# of fewer.
INSTRUCTIONS = {
    "a100": ("mma.sync", "mma.sync"),
    "h200": ("wgmma.mma_async", "mma.sync"),
    "b200": ("tcgen05.mma", "mma.sync"),
    "mi300x": ("v_mfma", "v_mfma"),
}


@cache
def planned(example: str, target: str) -> Plan:
    compiler = Compiler.installed(target, numeric=False)
    _, passes = compiler.passes("O2")
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    model, _ = compiler.rewrite(compiler.build(spec), passes)
    return compiler.schedule(model)


def compiled(ahead: Ahead, job: str, plan: Plan, oldest: bool = False) -> list[Compiled]:
    return ahead(job, emitted(ahead, plan), calls_of(plan), plan.target, oldest)


def emitted(ahead: Ahead, plan: Plan) -> dict[str, str]:
    return emit(plan, ahead.registry.templates, FACTS)


def hold(plan: Plan, found: list[Compiled]) -> None:
    """Assert that kernels fit the target, spill nothing and multiply as it does best."""
    wide, narrow = INSTRUCTIONS[plan.target.name]
    used = [kernel for kernel in plan.emitted() if kernel.triton]
    files = {kernel.file for kernel in found}
    assert all(files & {kernel.stem(), *kernel.parts} for kernel in used)  # either may launch
    assert files <= {stem for kernel in used for stem in (kernel.stem(), *kernel.parts)}
    early = [kernel for kernel in found if kernel.options.get("launch_pdl")]
    assert bool(early) == ("pdl" in plan.target.features)  # else what compiles would have refused
    rows = set()
    for kernel in found:
        assert kernel.shared <= plan.target.shared_memory, kernel
        assert kernel.spills == 0, kernel
        rows_of = "BLOCK_N" if kernel.kernel == "slot_gradients" else "BLOCK_M"
        block = kernel.options.get(rows_of)
        if block is not None and kernel.instructions:
            rows.add(block)
            swapped = kernel.options.get("SWAPPED", 0)
            assert not swapped or block == 32
            assert set(kernel.instructions) == {wide if block >= 64 or swapped else narrow}, kernel
    assert min(rows) < 64 <= max(rows)
    swaps = any(kernel.options.get("SWAPPED") for kernel in found)
    assert swaps == ("choices" in files and wide != narrow)
    # What has rows but no depth only adds up what a product has left.
    tiled = [k for k in found if k.options.get("BLOCK_M") and k.options.get("BLOCK_K") != 0]
    products = [k for k in tiled if k.kernel not in ("_sort", "combine_splits")]
    assert all(kernel.instructions for kernel in products)


@pytest.mark.parametrize("target", INSTRUCTIONS)
@pytest.mark.parametrize("example", PUBLISHED)
def test_the_newest_triton(ahead: Ahead, example: str, target: str) -> None:
    plan = planned(example, target)
    hold(plan, compiled(ahead, example, plan))


@pytest.mark.parametrize(
    ("example", "target"),
    [
        *(("deepseek-v2-lite", target) for target in INSTRUCTIONS),
        *((example, "h200") for example in PUBLISHED[1:]),
    ],
)
def test_the_oldest_triton(ahead: Ahead, example: str, target: str) -> None:
    plan = planned(example, target)
    hold(plan, compiled(ahead, example, plan, oldest=True))


@pytest.mark.parametrize(
    ("target", "file", "oldest"),
    [
        ("a100", "add_rms_norm", False),
        ("h200", "prefill_attention", False),
        ("h200", "rope", True),
        ("b200", "gated_activation", False),
        ("mi300x", "rope", False),
    ],
)
def test_what_is_recorded_is_what_compiles(
    ahead: Ahead, target: str, file: str, oldest: bool
) -> None:
    """A call of a file for each target, once more; of others, two builds are compared below."""
    plan = planned("deepseek-v2-lite", target)
    calls = [call for call in calls_of(plan) if call["file"] == file]
    files = emitted(ahead, plan)
    found = ahead.compile(files, calls[:1], plan.target, oldest)
    kept = ahead("deepseek-v2-lite", files, calls, plan.target, oldest)
    assert found
    assert set(map(str, found)) <= set(map(str, kept))


def test_what_changes_is_not_what_was_recorded(ahead: Ahead) -> None:
    """The text of a kernel, of another that it imports, or a call."""
    plan = planned("deepseek-v2-lite", "h200")
    files, calls = emitted(ahead, plan), calls_of(plan)
    unlike = replace(ahead, record=False)
    for stem in ("grouped_gemm", "experts"):
        path = f"kernels/{stem}.py"
        changed = {**files, path: files[path] + "\n"}
        with pytest.raises(AssertionError, match="make ahead"):
            unlike("deepseek-v2-lite", changed, calls, plan.target)
    with pytest.raises(AssertionError, match="make ahead"):
        unlike("deepseek-v2-lite", files, calls[1:], plan.target)
    with pytest.raises(AssertionError, match="make ahead"):
        unlike("never-seen", files, calls, plan.target)


def test_two_builds_give_the_same_bytes(ahead: Ahead) -> None:
    plan = planned("llama-3-8b", "h200")
    few = {"add_rms_norm", "split_attention"}
    files = emitted(ahead, plan)
    calls = [call for call in calls_of(plan) if call["file"] in (*few, "decode_attention")]
    again = {"PYTHONHASHSEED": "1"}
    assert plan.target.triton is not None
    script = ahead.registry.templates["compile.py"]
    other = compile_ahead(files, calls, plan.target.triton, script, again, processes=2)
    one = [kernel for kernel in compiled(ahead, "llama-3-8b", plan) if kernel.file in few]
    assert one
    assert sorted(kernel.sha256 for kernel in one) == sorted(kernel.sha256 for kernel in other)


def test_a_package_is_compiled(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `build --aot` does it, but for all files except one."""
    plan = planned("llama-3-8b", "h200")
    calls = [call for call in calls_of(plan) if call["file"] == "append_heads"]
    monkeypatch.setattr("archsmith.compiler.emit.aot.calls_of", lambda _: calls)
    found = compile_package(plan, ahead.registry.templates, FACTS)
    kept = [
        kernel for kernel in compiled(ahead, "llama-3-8b", plan) if kernel.file == "append_heads"
    ]
    assert found
    assert sorted(map(str, found)) == sorted(map(str, kept))


def test_processes_change_nothing(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two of them compile is told once, and in one order."""
    rope = Compiled("rope", "_rope", {"HEADS": 4}, 32, 0, 0, {}, 5000, "")
    kernels = [rope, replace(rope, options={"HEADS": 8}), replace(rope, file="attend")]
    plan, shares = planned("llama-3-8b", "h200"), []
    for found in (kernels, [*reversed(kernels), rope]):
        monkeypatch.setattr(
            "archsmith.compiler.emit.aot.compile_ahead", lambda *_, found=found, **__: found
        )
        shares.append(compile_package(plan, ahead.registry.templates, FACTS))
    assert shares == [[kernels[2], *kernels[:2]]] * 2


def test_what_needs_more_memory_than_there_is_is_found(
    ahead: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Compiled("rope", "_rope", {"HEADS": 4}, 32, 0, 10**6, {}, 5000, "")
    monkeypatch.setattr("archsmith.compiler.emit.aot.compile_ahead", lambda *_, **__: [large])
    with pytest.raises(ProofError, match=r"_rope of kernels/rope\.py needs 1000000 bytes of"):
        compile_package(planned("llama-3-8b", "h200"), ahead.registry.templates, FACTS)


def test_what_does_not_compile_is_found(ahead: Ahead) -> None:
    plan = planned("llama-3-8b", "h200")
    files = emitted(ahead, plan)
    rope = files["kernels/rope.py"]
    files["kernels/rope.py"] = rope.replace("tl.arange(0, PAIRS)", "tl.arange(0, 3)")
    assert files["kernels/rope.py"] != rope
    calls = [call for call in calls_of(plan) if call["file"] == "rope"]
    with pytest.raises(ProofError, match="a kernel does not compile"):
        ahead.compile(files, calls, plan.target)


def test_a_target_without_triton_says_so(ahead: Ahead) -> None:
    with pytest.raises(ArchsmithError, match="has no Triton\n  = help: build for a GPU"):
        compile_package(planned("tiny-llama", "cpu"), ahead.registry.templates, FACTS)
