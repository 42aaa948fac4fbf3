"""Launches that begin early: each kernel that is launched so waits, and those of decoding are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.aot import calls_of
from archsmith.compiler.emit.package import emit_kernels
from archsmith.compiler.errors import ProofError
from archsmith.compiler.schedule.kernel import GradientKernel, Kernel
from archsmith.compiler.schedule.plan import Plan
from kernels.begins import begins
from kernels.checks import registry
from kernels.emissions import imported
from kernels.recorded import Ahead
from kernels.test_layer_launches import IN_FLOAT8

EXAMPLES = Path(__file__).parents[2] / "examples"
IN_8_BITS = f"{IN_FLOAT8},quantize-experts{{activations=true}} after pack-experts"

# Models that have all kernels of a decoding step among them.
MODELS = (
    *(("deepseek-v2-lite", "O2"), ("qwen3-30b-a3b", "O2")),
    *(("deepseek-v3", "O2"), ("deepseek-v3", IN_8_BITS)),
)


def planned(example: str, pipeline: str, target: str = "h200") -> Plan:
    compiler = Compiler.installed(target, numeric=False)
    _, passes = compiler.passes(pipeline)
    model = compiler.build(compiler.load(EXAMPLES / f"{example}.yaml"))
    model, _ = compiler.rewrite(model, passes, lambda *_: {"perplexity": 0.0})
    return compiler.schedule(model)


class Recorded:
    """Stands in for a kernel: keeps whether it would be launched early."""

    def __init__(self, kernel: Any, calls: set[tuple[Any, bool]]) -> None:
        self.fn, self.calls = kernel.fn, calls

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *_, **given: self.calls.add((self, given.get("launch_pdl", False)))


def launches(plan: Plan) -> set[tuple[Any, bool]]:
    """The kernels that a package launches, each with whether it is launched early."""
    (texts,) = emit_kernels([(plan, ())], registry().templates)
    files = tuple(sorted((Path(path).stem, text) for path, text in texts.items()))
    package = imported(files, "operators").__package__
    modules = {file: importlib.import_module(f"{package}.{file}") for file, _ in files}
    assert modules["launches"].PDL == {}
    modules["launches"].PDL["launch_pdl"] = True  # as where nothing is interpreted
    calls: set[tuple[Any, bool]] = set()
    for module in modules.values():
        for key, value in list(vars(module).items()):
            if hasattr(value, "run"):
                setattr(module, key, Recorded(value, calls))
    for call in calls_of(plan):
        operands = {
            name: torch.empty(given["shape"], dtype=getattr(torch, given["dtype"]), device="meta")
            for name, given in call["operands"].items()
        }
        found = vars(modules[call["file"]]).items()
        functions = {name: f.launch for name, f in found if hasattr(f, "launch")}
        eval(call["expression"], {**functions, **operands})
    return calls


def serving() -> Iterator[Kernel]:
    """Our kernels in Triton for a decoding step."""
    for kernel in (kernel() for kernel in registry().kernels.values()):
        ours = type(kernel).__module__.startswith("archsmith.templates.")
        decodes = "decode" in kernel.phases and not isinstance(kernel, GradientKernel)
        if ours and kernel.triton and decodes:
            yield kernel


def test_what_is_launched_early_waits() -> None:
    """And what waits is launched early; each kernel of a decoding step is."""
    early = set()
    for example, pipeline in MODELS:
        for kernel, launched in launches(planned(example, pipeline)):
            file = kernel.fn.__module__.rpartition(".")[2]
            if launched or "begin()" in Path(kernel.fn.__code__.co_filename).read_text():
                assert begins(kernel) == launched, f"{file} of {example}"
            if launched:
                early.add(file)
    for kernel in serving():
        assert early & {kernel.stem(), *kernel.parts}, kernel.name
    texts = {part: kernel.template(part) for kernel in serving() for part in kernel.parts}
    texts |= {kernel.stem(): kernel.template() for kernel in serving()}
    assert early >= {stem for stem, text in texts.items() if "begin()" in str(text)} - {"splits"}


@pytest.mark.parametrize("target", ["a100", "mi300x"])
def test_other_targets_have_no_word_of_it(target: str) -> None:
    (texts,) = emit_kernels([(planned("deepseek-v2-lite", "O2", target), ())], registry().templates)
    assert "kernels/launches.py" not in texts
    assert not [path for path, text in texts.items() if "PDL" in text or "begin()" in text]


# Kernels as one may get them wrong: `tl` and `begin` are looked for in the text alone.


def late(x_ptr: Any) -> None:
    x = tl.load(x_ptr)
    begin()
    tl.store(x_ptr, x)


def at_times(x_ptr: Any, n: int) -> None:
    if n > 1:
        begin()


def not_at_the_end(x_ptr: Any, n: int) -> None:
    if n > 1:
        return
    begin()


def in_a_loop(x_ptr: Any, n: int) -> None:
    for _ in range(n):
        begin()


def in_another(x_ptr: Any, n: int) -> None:
    begin()
    calls(x_ptr, n)


def of_another(x_ptr: Any, n: int) -> None:
    calls(x_ptr, tl.load(x_ptr))


def right(x_ptr: Any, n: int) -> None:
    if n > 1:
        calls(x_ptr, n)
    else:
        begin()
        n += 1
    tl.store(x_ptr, n)


def inner(x_ptr: Any, n: int) -> None:
    if n > 2:
        begin()
        return
    begin()
    tl.store(x_ptr, n)


calls = SimpleNamespace(fn=inner)
tl: Any = None
begin: Any = None


@pytest.mark.parametrize(
    ("kernel", "wrong"),
    [
        (late, r"late does not wait before tl\.load"),
        (at_times, "waits on some paths only"),
        (not_at_the_end, "waits on some paths only"),
        (in_a_loop, "waits on some paths only|waits twice"),
        (in_another, "inner waits twice"),
        (of_another, r"does not wait before tl\.load"),
    ],
)
def test_what_does_not_wait_is_found(kernel: Callable[..., None], wrong: str) -> None:
    assert begins(SimpleNamespace(fn=right))
    with pytest.raises(AssertionError, match=wrong):
        begins(SimpleNamespace(fn=kernel))


PTX = """.entry kernel(
{
\tld.param.b64 \t%rd1, [kernel_param_0];
\t@%p1 bra \t$L__BB0_2;
// %bb.1:
\tprefetch.global.L2 [%rd1];
$L__BB0_2:                              // %loop
\tgriddepcontrol.launch_dependents ;
\tgriddepcontrol.wait ;
\tld.global.b32 { %r7 }, [ %rd1 + 0 ];
\tret;
}
"""


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("\tgriddepcontrol.wait ;\n", "", "ld.global.b32"),
        (
            "\tprefetch.global.L2 [%rd1];",
            "\t@%p2 ld.global.b32 { %r1 }, [ %rd1 + 0 ];",
            "ld.global",
        ),
        (
            "\tprefetch.global.L2 [%rd1];",
            "\tcp.async.cg.shared.global [ %r1 ], [ %rd1 ];",
            "cp.async",
        ),
        ("L2 [%rd1];", "L2 [%rd1]; { atom.add.u32 %r1, [%rd1], 1; }", "atom.add"),
        ("\tprefetch.global.L2 [%rd1];", "\tret;", "ret is before it waits"),
        ("L2 [%rd1];", "L2 [%rd1]; discard.global.L2 [%rd1], 128;", "discard"),
        ("\tld.global.b32", "\tld.global.L1::no_allocate.nc.b32", "reads what others"),
        ("bra \t$L__BB0_2", "bra \t$L__BB0_3", "ld.global"),
        (
            "\tgriddepcontrol.wait ;\n",
            "\tgriddepcontrol.wait ;\n\ttcgen05.alloc [%r1];\n",
            "memory when",
        ),
    ],
)
def test_compiled_paths_are_followed(
    old: str, new: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each break is found; what is right, a prefetch before the wait included, is not."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    script: dict[str, Any] = {"__name__": "compile"}
    exec(registry().templates["compile.py"], script)
    text = PTX.replace("\tld.global", "$L__BB0_3:\n\tld.global")
    assert script["before_waiting"](text) is None
    assert old in text
    assert found in script["before_waiting"](text.replace(old, new))


def test_what_is_compiled_is_followed(ahead: Ahead) -> None:
    """As `build --aot` does, which compiles nothing that would be a race."""
    plan = planned("deepseek-v2-lite", "O2")
    (files,) = emit_kernels([(plan, ())], registry().templates)
    calls = [call for call in calls_of(plan) if call["file"] == "head_product"][:1]
    assert ahead.compile(files, calls, plan.target)
    for path, line in (
        ("kernels/head_product.py", "    begin()\n"),
        ("kernels/launches.py", "        tl.extra.cuda.gdc_wait()\n"),
    ):
        broken = {**files, path: files[path].replace(line, "")}
        assert broken != files
        with pytest.raises(ProofError, match="before others have ended, but cp"):
            ahead.compile(broken, calls, plan.target)
