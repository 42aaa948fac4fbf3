"""DeepGEMM's adapters, by a module in the place of theirs that asks what its source asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from bench.peers import deep_gemm, deep_gemm_fp8, grouped_mm
from torch import Tensor

ALIGN, BLOCK = 4, 128
SIZES = 9, 5, 2, 256, 128  # tokens, experts, of which each has, and the widths


def product(rows: Tensor, weight: Tensor, out: Tensor, groups: Tensor) -> None:
    """Rows of no group are spoilt, and a tile has one group: that of its first row."""
    assert (groups.dtype, groups.shape) == (torch.int32, rows.shape[:1])
    assert len(rows) % ALIGN == 0
    tiles = groups.view(-1, ALIGN)
    first = tiles[:, :1]
    assert ((tiles == first) | (tiles == -1)).all()
    assert out.shape == (len(rows), weight.shape[1])
    found = torch.einsum("mk,mnk->mn", rows.float(), weight[groups].float())
    out.copy_(torch.where(groups[:, None] >= 0, found, float("nan")))


def narrow_product(
    rows: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor], out: Tensor, groups: Tensor
) -> None:
    """A scale for 128 numbers of a row, and for 128 by 128 of a weight."""
    (x, of_x), (w, of_w) = rows, weight
    assert (x.dtype, w.dtype, of_x.dtype, of_w.dtype) == (torch.float8_e4m3fn,) * 2 + (
        torch.float32,
    ) * 2
    assert of_x.shape == (len(x), x.shape[1] // BLOCK)
    assert of_w.shape == (len(w), w.shape[1] // BLOCK, w.shape[2] // BLOCK)
    assert x.is_contiguous()
    assert w.is_contiguous()
    wide = w.float() * of_w.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    product(x.float() * of_x.repeat_interleave(BLOCK, 1), wide, out, groups)


def narrow(x: Tensor, use_ue8m0: bool) -> tuple[Tensor, Tensor]:
    assert not use_ue8m0
    blocks = x.float().unflatten(1, (-1, BLOCK))
    scale = blocks.abs().amax(-1).clamp(1e-4) / 448
    return (blocks / scale[..., None]).flatten(1).to(torch.float8_e4m3fn), scale


@pytest.fixture
def experts(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, ...]:
    """x, the experts and their shares, and weights; with a stand-in for the module."""
    theirs = SimpleNamespace(
        get_mk_alignment_for_contiguous_layout=lambda: ALIGN,
        m_grouped_bf16_gemm_nt_contiguous=product,
        m_grouped_fp8_gemm_nt_contiguous=narrow_product,
        utils=SimpleNamespace(per_token_cast_to_fp8=narrow),
    )
    for adapter in (deep_gemm, deep_gemm_fp8):
        monkeypatch.setattr(adapter, "load", lambda modules: theirs)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    tokens, count, top_k, width, inner = SIZES
    draws = torch.Generator().manual_seed(0)
    index = torch.rand(1, tokens, count, generator=draws).topk(top_k).indices
    shapes = (1, tokens, width), (1, tokens, top_k), (count, 2, inner, width), (count, width, inner)
    x, weight, gate_up, down = (torch.randn(s, generator=draws) for s in shapes)
    return x, index, weight, gate_up / width**0.5, down / inner**0.5


def test_groups_that_begin_at_multiples_are_the_same_experts(experts: tuple[Tensor, ...]) -> None:
    arranged, run = deep_gemm.fused_experts("silu")
    wanted = grouped_mm.experts(*grouped_mm.arranged(*experts))
    torch.testing.assert_close(run(*arranged(*experts)), wanted)
    with pytest.raises(ValueError, match="no gelu"):
        deep_gemm.fused_experts("gelu")


def test_so_are_those_in_float8(experts: tuple[Tensor, ...]) -> None:
    x, index, weight, gate_up, down = experts
    gate_up, down = (w.mul(100).to(torch.float8_e4m3fn) for w in (gate_up, down))
    of_gate_up = torch.rand(5, 2, 1, 2) / 100
    of_down = torch.rand(5, 2, 1) / 100
    rules = {"block": BLOCK, "activations": True}
    arranged, run = deep_gemm_fp8.quantized_experts("silu", **rules)
    found = run(*arranged(x, index, weight, gate_up, down, of_gate_up, of_down))
    wide = [
        w.float() * s.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
        for w, s in ((gate_up, of_gate_up), (down, of_down))
    ]
    wanted = grouped_mm.experts(*grouped_mm.arranged(x, index, weight, *wide))
    assert (found - wanted).norm() < 2**-4 * wanted.norm()  # of x and what is between
    with pytest.raises(ValueError, match="blocks of 128"):
        deep_gemm_fp8.quantized_experts("silu", block=64, activations=True)
