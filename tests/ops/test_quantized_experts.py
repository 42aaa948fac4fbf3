"""The reference of experts in 8 bits, against PyTorch's own float8 and products by blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from ops.arrays import normal, same, tensor

E, D, INNER, K, BLOCK = 4, 40, 23, 2, 16
FLOAT8 = torch.float8_e4m3fn


def product(
    x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, near: bool
) -> torch.Tensor:
    """x [N, D] times a matrix [F, D], a block of columns after the other."""
    y = torch.zeros(len(x), len(values), dtype=torch.float64)
    for i, k in enumerate(range(0, x.shape[1], BLOCK)):
        part, scale = x[:, k : k + BLOCK], torch.ones(len(x), 1, dtype=torch.float64)
        if near:
            scale = part.abs().amax(1, keepdim=True) / 448
            part = (part / scale).float().to(FLOAT8).double()
        rows = scales[:, i].repeat_interleave(BLOCK)[: len(values)]
        y += scale * (part @ values[:, k : k + BLOCK].T) * rows
    return y


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("dtype", [FLOAT8, torch.int8])
def test_experts_in_blocks(dtype: torch.dtype, near: bool) -> None:
    if near and dtype == torch.int8:
        return
    draw = torch.Generator().manual_seed(1)
    shapes = (E, 2, INNER, D), (E, D, INNER)
    gate_up, down = (
        (100 * torch.randn(shape, generator=draw)).clamp(-127, 127).to(dtype).double()
        for shape in shapes
    )
    scales = [torch.rand(shape, generator=draw).double() for shape in ((E, 2, 2, 3), (E, 3, 2))]
    scales = [0.01 + 0.01 * scale for scale in scales]
    x, share = tensor(normal(2, 1, 7, D)), tensor(normal(3, 1, 7, K))
    index = torch.stack([torch.randperm(E, generator=draw)[:K] for _ in range(7)])[None]
    op = QuantizedExperts("silu", block=Dim.of(BLOCK), activations=near)
    found = op.reference(*(v.numpy() for v in (x, index, share, gate_up, down, *scales)))

    wanted = torch.zeros(7, D, dtype=torch.float64)
    for t in range(7):
        for slot in range(K):
            e = index[0, t, slot]
            gate, up = (
                product(x[0, t : t + 1], gate_up[e, i], scales[0][e, i], near) for i in range(2)
            )
            made = product(F.silu(gate) * up, down[e], scales[1][e], near)
            wanted[t] += share[0, t, slot] * made[0]
    same(found[0], wanted.numpy())


def test_rounding_what_is_multiplied_is_seen() -> None:
    """So the tests above would notice were it left out."""
    x, matrix = normal(1, 1, 5, D), np.rint(20 * normal(2, E, 2, INNER, D))
    operands = (
        *(x, np.zeros((1, 5, 1), int), np.ones((1, 5, 1)), matrix, np.ones((E, D, INNER))),
        *(np.ones((E, 2, 2, 3)), np.ones((E, 3, 2))),
    )
    plain, near = (
        QuantizedExperts("relu", block=Dim.of(BLOCK), activations=on).reference(*operands)
        for on in (False, True)
    )
    assert 1e-3 < np.abs(plain - near).max() / np.abs(plain).max() < 0.1


TYPES = (
    *("bfloat16[B, T, 40~5]", "int64[B, T, 2]", "float32[B, T, 2]"),
    *("int8[4~3, 2, 23~7, 40~5]", "int8[4~3, 40~5, 23~7]"),
    *("float32[4~3, 2, 1~3, 1~2]", "float32[4~3, 1~2, 1~3]"),
)


@pytest.mark.parametrize(
    ("at", "type", "message"),
    [
        (3, "bfloat16[4~3, 2, 23~7, 40~5]", "is not in 8 bits: float8_e4m3fn, int8"),
        (4, "float8_e4m3fn[4~3, 40~5, 23~7]", "are of two dtypes"),
        (5, "bfloat16[4~3, 2, 1~3, 1~2]", "not float32 or wider, one a block"),
        (6, "float32[4~3, 1~2, 2~3]", "not float32 or wider, one a block"),
    ],
)
def test_types_that_do_not_fit(at: int, type: str, message: str) -> None:
    op = QuantizedExperts("silu")
    types = [TensorType.parse(t) for t in TYPES]
    assert op.infer(*types) == types[0]
    types[at] = TensorType.parse(type)
    with pytest.raises(GraphError, match=message):
        op.infer(*types)


def test_int8_multiplies_no_float8() -> None:
    with pytest.raises(GraphError, match="activations in float8 do not multiply int8"):
        QuantizedExperts("silu", activations=True).infer(*map(TensorType.parse, TYPES))
