"""Candidates that are not the first, compiled ahead of time: what `tune` times fits, unspilled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.experts import FusedExperts
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import candidates, use
from archsmith.compiler.schedule.kernel import Config, GradientKernel, Kernel, Use
from kernels.checks import VALUES
from kernels.recorded import Ahead
from kernels.test_ahead import INSTRUCTIONS


@dataclass(frozen=True)
class Case:
    """A kernel at sizes of DeepSeek-V2-Lite, where nothing else is said, and the rows of a call."""

    kernel: str
    op: Op
    operands: tuple[str, ...]
    rows: int = 4096
    most: int = 24
    """How many candidates are compiled, the likely best first."""

    def types(self, dtype: str = "bfloat16") -> tuple[TensorType, ...]:
        texts = (t if t[0] != "[" else f"{dtype}{t}" for t in self.operands)
        return tuple(map(TensorType.parse, texts))


EXPERTS = (
    "[B, T, 2048]",
    "int64[B, T, 6]",
    "float32[B, T, 6]",
    "[64, 2, 1408, 2048]",
    "[64, 2048, 1408]",
)
SILU = FusedExperts("silu")
HEADS = "[B, T, 16, {0}]", "[B, S, 16, {0}]", "[B, S, 16, 128]", "int64[B, T]"
OTHERS = {
    "experts-1": Case("triton.grouped_gemm", SILU, EXPERTS, 1, 4),
    "experts-32": Case("triton.grouped_gemm", SILU, EXPERTS, 32, 4),
    "experts-4096": Case("triton.grouped_gemm", SILU, EXPERTS, 4096, 4),
    "experts": Case("triton.grouped_gemm_gradients", SILU, EXPERTS),
    **{
        f"attention-{key}": Case(
            "triton.prefill_attention_gradients",
            Attend(key**-0.5),
            tuple(text.format(key) for text in HEADS),
        )
        for key in (192, 128)
    },
    "loss": Case(
        "triton.linear_cross_entropy",
        LinearCrossEntropy(),
        ("[B, T, 2048]", "[102400, 2048]", "int64[B, T]"),
    ),
    "norm": Case("triton.rms_norm_gradients", RmsNorm(1e-6), ("[B, T, 512]", "[512]")),
    "add": Case(
        "triton.add_rms_norm_gradients",
        AddRmsNorm(1e-6),
        ("[B, T, 7168]", "[B, T, 7168]", "[7168]"),
    ),
}
HALVES = {name: OTHERS[name] for name in ("experts-1", "experts-4096")}


def offered(registry: Registry, case: Case, target: str, dtype: str) -> list[Config]:
    """The candidates of a case that are told apart by more than the order of programs."""
    kernel, chip = registry.kernels[case.kernel](), registry.targets[target]
    rows = next(rows for limit, rows in kernel.rungs() if limit is None or case.rows <= limit)
    found = candidates(kernel, case.op, case.types(dtype), rows, chip, case.most)
    unlike = {str({**config.options(), "GROUP_M": 0}): config for config in reversed(found)}
    return [config for config in found if config in unlike.values()]


def compiled(
    ahead: Ahead, job: str, case: Case, config: Config, target: str, dtype: str, oldest: bool
) -> list[Compiled]:
    """What a call of a case launches with these options: of a kernel that has its tiles for its
    gradients too, these as well."""
    registry, chip = ahead.registry, ahead.registry.targets[target]
    kernel, types = registry.kernels[case.kernel](), case.types(dtype)
    assert kernel.refuses(case.op, types, chip) is None
    tuned = Use(case.op, types, ((None, config),))
    sizes = Sizes(case.rows, 1, 4096) if case.rows <= 32 else Sizes(1, case.rows, case.rows)
    uses = {
        other.name: tuned if other is kernel else use(other, case.op, types, chip)
        for other in _family(registry, kernel)
    }
    files, gradient = {"kernels/__init__.py": ""}, None
    asked = []
    for other in _family(registry, kernel):
        found = uses[other.name]
        trained = isinstance(other, GradientKernel)
        for stem in (other.stem(), *other.parts):
            own = gradient if other.triton and not trained else None
            files[f"kernels/{stem}.py"] = kernel_file(other, [found], chip, VALUES, own, part=stem)
        gradient = other if trained else gradient
        if other is kernel or (trained and not found.tiles):
            asked += calls(other, found, [sizes], ("decode" if sizes.tokens == 1 else "train",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    return ahead(job, files, asked, chip, oldest)


def _family(registry: Registry, kernel: Kernel) -> Iterator[Kernel]:
    """Its references, its gradients or what it is of, and itself: each before who imports it."""
    forward = kernel
    if isinstance(kernel, GradientKernel):
        forward = registry.kernels[kernel.differentiates]()
    yield registry.kernels[forward.reference]()
    for other in registry.kernels.values():
        if issubclass(other, GradientKernel) and other.differentiates == forward.name:
            yield kernel if other.name == kernel.name else other()
    yield forward


def hold(case: Case, found: list[Compiled], chip: Target, wide: str, narrow: str) -> None:
    multiplies = "norm" not in case.kernel
    met: Mapping[str, int] = {}
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= chip.shared_memory, kernel
        met = {**met, **kernel.instructions}
    assert set(met) <= {wide, narrow}
    assert bool(met) == multiplies


@pytest.mark.parametrize(
    ("name", "target", "oldest"),
    [
        *((name, target, False) for name in OTHERS for target in INSTRUCTIONS),
        *((name, "h200", True) for name in OTHERS),
    ],
)
def test_other_candidates_fit(ahead: Ahead, name: str, target: str, oldest: bool) -> None:
    case, chip = OTHERS[name], ahead.registry.targets[target]
    _, *others = offered(ahead.registry, case, target, "bfloat16")
    assert bool(others) == ((name, target) != ("loss", "mi300x"))  # there, only orders differ
    for i, config in enumerate(others):
        found = compiled(ahead, f"other-{name}-{i}", case, config, target, "bfloat16", oldest)
        hold(case, found, chip, *INSTRUCTIONS[target])


@pytest.mark.parametrize(
    ("target", "oldest"), [*((target, False) for target in INSTRUCTIONS), ("h200", True)]
)
@pytest.mark.parametrize("name", HALVES)
def test_experts_in_float16(ahead: Ahead, name: str, target: str, oldest: bool) -> None:
    """A tile for one token, and one for many: as in bfloat16, but for the type of the products."""
    case, chip = HALVES[name], ahead.registry.targets[target]
    first, *_ = offered(ahead.registry, case, target, "float16")
    found = compiled(ahead, f"float16-{name}", case, first, target, "float16", oldest)
    hold(case, found, chip, *INSTRUCTIONS[target])
    products = [kernel for kernel in found if kernel.kernel == "_product"]
    assert len(products) == 2
    wanted = INSTRUCTIONS[target][case.rows <= 32]
    assert all(set(kernel.instructions) == {wanted} for kernel in products)
