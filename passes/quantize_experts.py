"""Hold the weights of experts in 8 bits, with a scale for each block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..compiler.errors import ArchsmithError
from ..compiler.ir.graph import Node, Value
from ..compiler.ir.quantized import BLOCK, BlockScales, Quantize
from ..compiler.ir.types import BYTES
from ..compiler.ir.weights import Each
from ..compiler.ops.experts import Experts, FusedExperts
from ..compiler.rewrite.passes import Lossy, StepwisePass
from ..compiler.rewrite.rewriter import Rewriter

FORMATS = {"float8": "float8_e4m3fn", "int8": "int8"}


@dataclass(frozen=True)
class QuantizeExperts(StepwisePass):
    """Experts are most of a model's bytes, and of few tokens reading them is what takes time.

        %y = fused_experts(%x, %index, %weight, %gate_up, %down)
        ->
        %y = quantized_experts(%x, %index, %weight, %gate_up, %down, %gate_up_scale, %down_scale)

    Each block of 128 rows and columns is in units of its largest number by the largest of the
    format, in float32 (arXiv:2412.19437, section 3.3.2). A checkpoint that holds just these blocks
    is taken as it is. With `activations`, which float8 alone has, so is what they multiply.
    """

    name = "quantize-experts"
    effect: ClassVar[Lossy] = Lossy("perplexity", 0.02)

    format: str = "float8"
    activations: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ArchsmithError(
                f"pass {self.name}: {self.format!r} is no format; there are {', '.join(FORMATS)}"
            )
        if self.activations and self.format != "float8":
            raise ArchsmithError(
                f"pass {self.name}: activations are quantized with float8 only, not {self.format}"
            )

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for node in list(rewriter.graph.nodes()):
            if not isinstance(node.op, Experts | FusedExperts):
                continue
            if reason := _why_not(rewriter, node):
                rewriter.refuse(node, reason)
                continue
            x, index, weight, *matrices = rewriter.graph.operands(node)
            rewriter.beside(node.results[0])
            made = [self._quantized(rewriter, value) for value in matrices]
            values, scales = zip(*made, strict=True)
            y = rewriter.op.quantized_experts(
                *(x, index, weight, *values, *scales),
                **node.op.attributes(),
                activations=self.activations,
            )
            now = _megabytes([*values, *scales])
            rewriter.remark(node, f"{_megabytes(matrices)} MB of weights become {now}")
            rewriter.replace(node.results, [y])
            yield

    def _quantized(self, rewriter: Rewriter, weight: Value) -> tuple[Value, Value]:
        """The parameter in 8 bits, and its scales."""
        program, dtype = rewriter.program(weight), FORMATS[self.format]
        values = rewriter.param(weight.name, Quantize(program, dtype, BLOCK), dtype)
        scales = BlockScales(program, dtype, BLOCK)
        wide = weight.type.wide.dtype
        return values, rewriter.param(f"{weight.name}_scale", scales, wide)


def _why_not(rewriter: Rewriter, node: Node) -> str:
    """Why experts are left alone."""
    if not isinstance(node.op, FusedExperts):
        return "gate and up are two weights each, which `fuse-expert-gate-up` makes one"
    _, _, _, *matrices = rewriter.graph.operands(node)
    if len(matrices) > node.op.matrices:
        return "its experts have biases"
    for value in matrices:
        if not rewriter.is_param(value):
            return f"%{value.name} is computed, not a parameter"
        if isinstance(rewriter.program(value), Each):
            return (
                f"the experts of %{value.name} are not in one tensor: `pack-experts` puts them so"
            )
        if len(rewriter.graph.users(value)) > 1:
            return f"%{value.name} is read more than once"
    return ""


def _megabytes(values: list[Value]) -> str:
    size = sum(
        BYTES[value.type.dtype] * math.prod(axis.size for axis in value.type.row)
        for value in values
    )
    return f"{size / 1e6:,.1f}"
