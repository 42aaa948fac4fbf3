"""Types of values: a dtype and a shape of Dims and of the named axes B, T and S."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import GraphError
from .dims import BATCH, CONTEXT, TOKENS, Dim, Which

FLOATS = ("bfloat16", "float16", "float32", "float64")
EIGHT_BITS = ("float8_e4m3fn", "int8")  # that weights may be held in
DTYPES = (*FLOATS, "int64", *EIGHT_BITS)

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "int64": 8} | dict.fromkeys(
    EIGHT_BITS, 1
)


@dataclass(frozen=True)
class TensorType:
    """The dtype and shape of a value; an axis is a Dim or a name: B batch, T tokens, S context."""

    dtype: str
    shape: tuple[Dim | str, ...]

    @classmethod
    def parse(cls, text: str) -> TensorType:
        dtype, bracket, axes = text.strip().partition("[")
        if dtype not in DTYPES or not bracket or not axes.endswith("]"):
            raise GraphError(f"{text!r} is no type; write for example bfloat16[B, T, 2048~23]")
        names = [axis.strip() for axis in axes[:-1].split(",") if axis.strip()]
        named = (BATCH, TOKENS, CONTEXT)
        return cls(dtype, tuple(n if n in named else Dim.parse(n) for n in names))

    @property
    def wide(self) -> TensorType:
        """The type that reductions accumulate in: at least float32."""
        return TensorType("float64" if self.dtype == "float64" else "float32", self.shape)

    @property
    def row(self) -> tuple[Dim, ...]:
        """The axes that are no batch, token or context axis."""
        return tuple(axis for axis in self.shape if isinstance(axis, Dim))

    def over(self, old: str, new: str) -> TensorType:
        """This type with one named axis in place of another."""
        return TensorType(self.dtype, tuple(new if axis == old else axis for axis in self.shape))

    def last(self, *axes: Dim) -> TensorType:
        """This type with other axes in place of its last one."""
        return TensorType(self.dtype, self.shape[:-1] + axes)

    def sizes(self, which: Which, **named: int) -> tuple[int, ...]:
        return tuple(a.at(which) if isinstance(a, Dim) else named[a] for a in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
