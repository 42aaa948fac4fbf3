"""The proofs can fail: a broken emission, and a broken pass, are found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ProofError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.weights import Concat, Slice
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pipeline import PassFailed
from archsmith.compiler.rewrite.rewriter import Rewriter
from archsmith.compiler.schedule.code import Code
from archsmith.compiler.schedule.kernel import Kernel

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def compiler() -> Compiler:
    registry = Registry.installed()
    registry = replace(registry, kernels=dict(registry.kernels), templates=dict(registry.templates))
    return Compiler(registry, registry.targets["cpu"], numeric=False)


def build(compiler: Compiler, folder: Path, example: str = "tiny-deepseek-v3") -> None:
    name, passes = compiler.passes(None)
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    compiler.package(spec, folder / "package", name, passes)


def edited(kernel: type[Kernel], old: str, new: str) -> type[Kernel]:
    """The kernel with another text in its template."""
    text = kernel.template()
    assert text is not None
    assert old in text
    changed = text.replace(old, new)
    members = {"__module__": kernel.__module__, "template": classmethod(lambda cls: changed)}
    return type(kernel.__name__, (kernel,), members)


def called(kernel: type[Kernel], change: Callable[..., Code]) -> type[Kernel]:
    """The kernel with another call: `change` is given what it would be."""

    def call(self: Kernel, op: object, *operands: Code, **keywords: object) -> Code:
        return change(kernel().call, op, *operands, **keywords)

    members = {"__module__": kernel.__module__, "call": call}
    return type(kernel.__name__, (kernel,), members)


def wrong_scale(call, op, *operands, **keywords):
    return call(replace(op, scale=op.scale * 1.001), *operands, **keywords)


def swapped_split(call, op, *operands, **keywords):
    return call(replace(op, sizes=op.sizes[::-1]), *operands, **keywords)


def halves(call, op, *operands, **keywords):
    return call(replace(op, interleaved=not op.interleaved), *operands, **keywords)


def no_bias(call, op, logits, *bias, **keywords):
    return call(op, logits, **keywords)


def another_eps(call, op, *operands, **keywords):
    return call(replace(op, eps=0.01), *operands, **keywords)


def swapped_operands(call, op, x, index, weight, gate_up, down, **keywords):
    return call(op, x, index, weight * 2.0, gate_up, down, **keywords)


CALLS = [
    ("torch.attend", wrong_scale, "%out"),
    ("torch.split", swapped_split, None),
    ("torch.rope", halves, ""),
    ("torch.route", no_bias, "%(index|weight)"),
    ("torch.rms_norm", another_eps, "%(latent|q_latent|h)"),
    ("torch.fused_experts", swapped_operands, "%routed"),
]
TEXTS = [
    ("torch.rms_norm", "mean(-1", "sum(-1", "%(latent|q_latent)"),
    ("torch.rope", "return angle.cos() * gain, angle.sin()", "return angle.sin(), angle.cos()", ""),
    ("torch.attend", "slot <= positions", "slot < positions", "%out"),
    ("torch.route", "weight * scale", "weight", "%(index|weight)"),
    ("torch.add_rms_norm", "total = x + residual", "total = x - residual", ""),
]


@pytest.mark.parametrize(
    ("name", "change", "value"), CALLS, ids=lambda v: getattr(v, "__name__", v)
)
def test_a_wrong_call_is_found(
    compiler: Compiler, tmp_path: Path, name: str, change: Callable[..., Code], value: str | None
) -> None:
    compiler.registry.kernels[name] = called(compiler.registry.kernels[name], change)
    wanted = "the emitted package fails" if value is None else rf"block \w+, value {value}"
    with pytest.raises(ProofError, match=wanted) as found:
        build(compiler, tmp_path)
    assert found.value.exit_code == 3
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(("name", "old", "new", "value"), TEXTS, ids=lambda v: v)
def test_a_wrong_function_is_found(
    compiler: Compiler, tmp_path: Path, name: str, old: str, new: str, value: str
) -> None:
    compiler.registry.kernels[name] = edited(compiler.registry.kernels[name], old, new)
    for other, kernel in compiler.registry.kernels.items():  # the file is one, its kernels several
        if other != name and kernel.stem() == compiler.registry.kernels[name].stem():
            compiler.registry.kernels[other] = edited(kernel, old, new)
    with pytest.raises(ProofError, match=f"block (dense|sparse), value {value}"):
        build(compiler, tmp_path)


MODULE = [
    (
        "cache.py",
        "buffer[self.rows, self.slots] = value",
        "buffer[self.rows, self.slots - 1] = value",
    ),
    ("model.py", "positions = torch.arange", "positions = 2 * torch.arange"),
    ("cache.py", "self.lengths += first", "self.lengths += first + 1"),
]


@pytest.mark.parametrize(("file", "old", "new"), MODULE, ids=lambda v: v)
def test_a_wrong_package_is_found(
    compiler: Compiler, tmp_path: Path, file: str, old: str, new: str
) -> None:
    text = compiler.registry.templates[file]
    assert old in text
    compiler.registry.templates[file] = text.replace(old, new)
    with pytest.raises(ProofError, match=r"block (dense|sparse)|package fails"):
        build(compiler, tmp_path, "tiny-deepseek-v2")


@dataclass(frozen=True)
class SwapHeads(Pass):
    """A bug: the first two heads of the query change places, and the others do not."""

    name = "swap-heads"

    def run(self, rewriter: Rewriter) -> None:
        for value in rewriter.graph.params:
            if value.name in ("q", "q_b"):
                program, one = rewriter.program(value), Dim.of(1)
                rest = program.shape[0] - 2
                parts = [(one, one), (Dim.of(0), one), (Dim.of(2), rest)]
                swapped = Concat(tuple(Slice(program, 0, a, n) for a, n in parts), 0)
                rewriter.replace(value, rewriter.param(value.name, swapped))


@dataclass(frozen=True)
class ScaleTwice(Pass):
    """Right, if of no use: what attention returns is doubled and halved."""

    name = "scale-twice"
    phases = ("decode",)

    def run(self, rewriter: Rewriter) -> None:
        for node in list(rewriter.graph.nodes()):
            if node.op is not None and node.op.name == "attend":
                (out,) = node.results
                doubled = rewriter.op.scale(out, factor=2.0)
                rewriter.replace(out, rewriter.op.scale(doubled, factor=0.5))


def test_a_pass_that_swaps_two_heads_is_found() -> None:
    compiler = Compiler.installed()
    spec = compiler.load(EXAMPLES / "tiny-llama.yaml")
    with pytest.raises(PassFailed, match="pass swap-heads: block layer, value %q") as failed:
        compiler.rewrite(compiler.build(spec), [SwapHeads()])
    assert failed.value.exit_code == 3


def test_a_pass_of_ones_own_changes_the_model(tmp_path: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(EXAMPLES / "tiny-llama.yaml")
    report = compiler.package(spec, tmp_path / "package", "own", [ScaleTwice()])
    assert report.proof is not None
    text = (tmp_path / "package" / "model.py").read_text()
    before, _, decode = text.partition("def _decode")
    assert "2.0 * 0.5" in decode
    assert "2.0 * 0.5" not in before
    assert "def _train" in before
