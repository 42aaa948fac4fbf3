"""Contexts in pages, for those who call kernels by themselves: their shapes, and a table."""

from __future__ import annotations

from typing import Any

from ..ir.cost import Sizes
from ..ir.dims import CONTEXT
from ..ir.op import Op
from ..ir.types import TensorType
from ..schedule.code import Code, name


def in_pages(op: Op, slots: Code | int) -> dict[str, Any]:
    """What the kernel of an op is told of pages, whose table is the variable `table`."""
    return {} if op.pages() is None else {"table": name("table"), "slots": slots}


def shape(op: Op, type: TensorType, sizes: Sizes) -> tuple[int, ...]:
    """The shape of an operand at a model's sizes; a context in pages has one page more than rows
    take, which is nobody's."""
    page = op.pages()
    if page is None or CONTEXT not in type.shape:
        return type.sizes("size", B=sizes.batch, T=sizes.tokens, S=sizes.context)
    rows, columns = table_shape(op, sizes)
    return rows * columns + 1, page.size, *(axis.size for axis in type.row)


def table_shape(op: Op, sizes: Sizes) -> tuple[int, int]:
    """The shape of the table, int32: a page for each part of a row's context."""
    page = op.pages()
    assert page is not None
    return sizes.batch, -(-sizes.context // page.size)
