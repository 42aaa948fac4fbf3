"""A query absorbed and a latent kept in float8 in Triton: as its op in float64, between guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.append import AppendQuantizedLatent
from kernels.appending import CLOSE, appended
from kernels.checks import DTYPES, Edit, Results, differ, emitted, holds, registry

KERNEL = "triton.append_quantized_latent"
OP = AppendQuantizedLatent("r", "n", "s", False, 1e-2, 1.0, block=Dim.of(16))


@dataclass(frozen=True)
class Case:
    """Heads, the widths of their queries, of a latent and of what is turned, and where rows go."""

    heads: int
    nope: int
    latent: int
    rope: int
    block: int = 16
    gain: bool = True
    slots: Sequence[Sequence[int]] = ((3,), (0,))

    def __str__(self) -> str:
        rows, tokens = len(self.slots), len(self.slots[0])
        sizes = f"{self.nope}/{self.latent}by{self.block}/{self.rope}"
        return f"{self.heads} {sizes} {rows}x{tokens} {self.gain}"

    @property
    def op(self) -> AppendQuantizedLatent:
        offset = OP.offset * self.gain  # of no gain there is none
        block = Dim.of(self.block)
        return replace(OP, offset=offset, block=block, interleaved=self.heads % 2 == 0)

    @property
    def types(self) -> list[str]:
        types = [f"[B, T, {self.heads}, {width}]" for width in (self.nope, self.rope)]
        types += [f"[{self.heads}, {self.nope}, {self.latent}]"]
        types += [f"[B, T, {width}]" for width in (self.latent, self.rope)]
        types += ["int64[B, T]", *[f"float32[B, T, {self.rope // 2}]"] * 2]
        return types + [f"[{self.latent}]"] * self.gain

    def run(self, dtype: str, edit: Edit | None = None, **options: object) -> tuple[Results, ...]:
        return appended(
            KERNEL, self.op, self.types, self.slots, length=7, dtype=dtype, edit=edit, **options
        )


CASES = [
    Case(1, 1, 1, 2),
    Case(4, 20, 24, 6, block=128, gain=False),  # a row that is less than a block
    Case(2, 128, 512, 64, block=128, slots=((2,),)),  # DeepSeek's widths
    Case(3, 70, 100, 10, block=32, slots=((0, 1, 2), (4, 5, 6))),  # a last block that is a part
    # padding goes to the slot past the end
    Case(2, 8, 16, 4, block=4, slots=((2, 3, 6), (0, 6, 6), (6, 6, 6))),
    Case(1, 16, 40, 4, slots=[[row % 6] for row in range(33)]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_append_quantized_latent(case: Case) -> None:
    """No number of float8 is another one, and no scale is further off than float32 rounds."""
    dtype = ("float32", "float16")[CASES.index(case) % 2]
    (q, rest, numbers, scales), wanted = case.run(dtype)
    assert differ((q, rest), wanted[:2]) < CLOSE[dtype]
    assert (numbers == wanted[2]).all()
    assert differ((scales,), wanted[3:]) < CLOSE["float32"]


@pytest.mark.parametrize("target", ["a100", "mi300x"])
def test_other_targets(target: str) -> None:
    assert differ(*Case(3, 20, 72, 6).run("float16", target=target)) < CLOSE["float16"]


def test_rows_are_those_of_pytorch_to_the_bit() -> None:
    """Where the sum of a norm has no order: the latents are whole numbers."""
    case = Case(2, 16, 512, 8, block=128)
    types = tuple(TensorType.parse(t if t[0] != "[" else f"float32{t}") for t in case.types)
    family = registry().kernels[KERNEL]()
    function = emitted(family, {case.op: types}, "h200").append_quantized_latent
    torch.manual_seed(0)
    shapes = [type.sizes("size", B=10, T=1) for type in types if type.dtype != "int64"]
    operands = [torch.randn(shape) for shape in shapes]
    latent, gain = operands[3], operands.pop()
    latent.mul_(100).round_()
    latent[3, :, 128:256] = 0.0  # a block whose scale is one
    slots = torch.randperm(10)[:, None]
    kept = []
    for write in (function.launch, function.reference):
        dtypes = (("float32", 8), ("float8_e4m3fn", 512), ("float32", 4))
        caches = [torch.zeros(10, width, dtype=DTYPES[dtype]) for dtype, width in dtypes]
        write(*caches, slots, *operands, 128, True, 1e-6, gain)
        kept.append(caches)
    for found, wanted in zip(*kept, strict=True):
        assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))
    assert (kept[0][2] == 1).sum() == 1


BROKEN = {
    "latents are not normed": (
        "load_normed(latent_ptr + token * latent_row, gain_ptr, column, L, EPS, OFFSET)",
        "tl.load(latent_ptr + token * latent_row + column, mask=column < L, other=0.0)",
    ),
    "a norm is of the last block alone": (
        "tl.sum(tl.sum(x * x, 1), 0)",
        "tl.sum(x * x, 1)[:, None]",
    ),
    "all numbers go to one slot": ("slot * L", "0"),
    "all scales go to one slot": ("slot * COUNT", "0"),
    "all keys go to one slot": ("slot * (2 * P)", "0"),
    "numbers are written past a row's last": ("near, mask=column < L)", "near)"),
    "scales are written past a row's last": ("scale, mask=block < COUNT)", "scale)"),
    "a scale is of the whole row": (
        "tl.max(tl.abs(x), 1)[:, None]",
        "tl.max(tl.max(tl.abs(x), 1), 0) + 0 * tl.max(x, 1)[:, None]",
    ),
    "latents are taken to be dense": ("token * latent_row", "token * L"),
    "keys are taken to be dense": ("token * key_row", "token * (2 * P)"),
    "one token has what the next has": ("program < rows", "program < rows - 1"),
}


def broken(edit: Edit | None) -> tuple[Results, Results]:
    case = Case(2, 4, 40, 6, slots=((2, 3), (0, 1)))
    found, wanted = case.run("float32", edit=edit, part_of={"latent": 46, "k_rope": 8})
    return found, wanted


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    assert not holds(broken, lambda text: text.replace(*change), CLOSE["float32"])


def test_what_is_not_broken_is_not() -> None:
    assert holds(broken, None, CLOSE["float32"])


def test_what_is_refused() -> None:
    types = [TensorType.parse(t if t[0] != "[" else f"bfloat16{t}") for t in CASES[0].types]
    target = registry().targets["h200"]
    refusal = (
        registry().kernels[KERNEL]().refuses(replace(OP, block=Dim.of(24)), tuple(types), target)
    )
    assert refusal is not None
    assert "blocks of 24 are no parts of a tile" in refusal
