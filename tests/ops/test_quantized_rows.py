"""The references of rows in float8, and of attention to them, against PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.ops.quantized_rows import DequantizeRows, QuantizeRows
from ops.arrays import normal, same, tensor

FLOAT8 = torch.float8_e4m3fn
BLOCK = Dim.of(16)


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and scales of rows, a block after the other, rounded by PyTorch."""
    numbers, scales = torch.empty_like(x), []
    for i in range(0, x.shape[-1], 16):
        part = x[..., i : i + 16]
        scale = part.abs().amax(-1, keepdim=True) / 448
        scale = torch.where(scale == 0, 1.0, scale)
        numbers[..., i : i + 16] = (part / scale).float().to(FLOAT8).double()
        scales.append(scale)
    return numbers, torch.cat(scales, -1)


def test_rows_in_blocks() -> None:
    x = tensor(normal(1, 2, 5, 40))
    x[0, 3, 16:32] = 0.0
    x[1, 2, :16] *= 1e-3 ** torch.arange(16)  # far below the largest of its block
    wanted = quantized(x)
    found = QuantizeRows(BLOCK).reference(x.numpy())
    for one, other in zip(found, wanted, strict=True):
        same(one, other.numpy())
    assert (found[1][0, 3, 1], np.abs(found[0]).max()) == (1.0, 448.0)
    rest = normal(2, 2, 5, 7)
    row = DequantizeRows(BLOCK).reference(*found, rest)
    same(row[..., 40:], rest)
    # Of E4M3, half of the last of its three bits is a sixteenth of a number.
    error = np.abs(row[..., :40] - x.numpy())
    largest = np.repeat(found[1], 16, -1)[..., :40] * 448
    assert (error <= np.maximum(np.abs(x.numpy()) / 16, largest * 2.0**-10 / 448)).all()
    assert error.max() > 1e-3


def test_attention_to_them() -> None:
    x, rest = tensor(normal(3, 2, 7, 40)), tensor(normal(4, 2, 7, 8))
    q, positions = tensor(normal(5, 2, 3, 5, 48)), np.array([[0, 3, 4], [4, 5, 6]])
    numbers, scales = quantized(x)
    wide = numbers * scales.repeat_interleave(16, -1)[..., :40]
    keys = torch.cat((wide, rest), -1)[:, None].expand(-1, 5, -1, -1)
    mask = torch.arange(7) <= torch.from_numpy(positions)[:, None, :, None]
    values = wide[:, None].expand(-1, 5, -1, -1)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, mask, scale=0.2)
    op = QuantizedAttend(0.2, BLOCK)
    operands = (x.numpy() for x in (q, numbers, scales, rest))
    same(op.reference(*operands, positions), out.transpose(1, 2).numpy())


def test_what_attention_to_a_latent_loses() -> None:
    """The figures of docs/passes/quantize-kv.md: normal latents of 512, scores of deviation one."""
    draws, block = np.random.default_rng(0), Dim.of(128)
    latent, rest = draws.standard_normal((1, 1024, 512)), draws.standard_normal((1, 1024, 64))
    q, positions = draws.standard_normal((1, 1, 4, 576)), np.array([[1023]])
    numbers, scales = QuantizeRows(block).reference(latent)
    wide = DequantizeRows(block).reference(numbers, scales, rest)[..., :512]
    keys = np.concatenate((latent, rest), -1)[:, :, None]
    scale = 576**-0.5
    exact = Attend(scale).reference(q, keys, keys[..., :512], positions)
    found = QuantizedAttend(scale, block).reference(q, numbers, scales, rest, positions)
    assert distance(wide, latent) == pytest.approx(0.026, abs=1e-3)
    assert distance(found, exact) == pytest.approx(0.028, abs=3e-3)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


TYPES = (
    *("bfloat16[B, T, 3~2, 48~9]", "float8_e4m3fn[B, S, 40~5]", "float32[B, S, 1~2]"),
    *("bfloat16[B, S, 8~4]", "int64[B, T]"),
)


@pytest.mark.parametrize(
    ("at", "type", "message"),
    [
        (0, "float16[B, T, 3~2, 48~9]", "do not fit queries"),
        (0, "bfloat16[B, T, 3~2, 48~8]", "do not fit queries"),
        (1, "bfloat16[B, S, 40~5]", "are no numbers of float8_e4m3fn"),
        (1, "float8_e4m3fn[B, T, 40~5]", "are no numbers of float8_e4m3fn"),
        (2, "bfloat16[B, S, 1~2]", r"the scales .* are not float32\[B, S, 1~2\]"),
        (2, "float32[B, S, 1]", r"the scales .* are not float32\[B, S, 1~2\]"),
        (3, "bfloat16[B, T, 8~4]", "is no context"),
    ],
)
def test_types_that_do_not_fit(at: int, type: str, message: str) -> None:
    op = QuantizedAttend(0.1)
    types = [TensorType.parse(t) for t in TYPES]
    assert str(op.infer(*types)) == "bfloat16[B, T, 3~2, 40~5]"
    types[at] = TensorType.parse(type)
    with pytest.raises(GraphError, match=message):
        op.infer(*types)
