"""The guards of interpreted kernels: writes outside are found, and those far outside not made."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from kernels.guards import MARGIN, Guards


@triton.jit
def _write(y_ptr, offset, BLOCK: tl.constexpr):
    tl.store(y_ptr + offset + tl.arange(0, BLOCK), 7.0)


def written(offset: int) -> tuple[Guards, torch.Tensor]:
    with Guards() as guards:
        y = torch.empty(16)
        _write[(1,)](y, offset, BLOCK=16)
    return guards, y


def test_what_is_inside_is_written() -> None:
    guards, y = written(0)
    guards.check()
    assert y.tolist() == [7.0] * 16


@pytest.mark.parametrize(("offset", "where"), [(-1, "before"), (1, "behind")])
def test_a_write_beside_a_tensor_is_found(offset: int, where: str) -> None:
    guards, _ = written(offset)
    with pytest.raises(AssertionError, match=f"something was written {where} a tensor"):
        guards.check()


def test_a_write_far_from_any_tensor_is_found_and_not_made() -> None:
    """Here it would be into a tensor of the test's own."""
    mine = torch.zeros(4 * MARGIN)
    with Guards() as guards:
        y = torch.empty(16)
        middle = mine[2 * MARGIN :].data_ptr()  # so that none of its margins is y's
        _write[(1,)](y, (middle - y.data_ptr()) // 4, BLOCK=16)
    assert not mine.any()
    with pytest.raises(AssertionError, match="16 numbers were written far from any tensor"):
        guards.check()


def test_triton_is_left_as_it_was() -> None:
    before = triton.runtime.interpreter.InterpreterBuilder.create_masked_store
    written(0)
    assert triton.runtime.interpreter.InterpreterBuilder.create_masked_store is before
