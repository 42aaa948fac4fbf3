"""What an operation is: attributes, a typing rule, and a reference meaning."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import GraphError
from .cost import Cost, Sizes
from .dims import Dim, Which
from .types import FLOATS, TensorType

Array = Any  # a NumPy array of float64, or of bool
Indices = Any  # a NumPy array of int64


@dataclass(frozen=True)
class Op:
    """One operation; its fields are its attributes, `infer`'s parameters its operands.

    An attribute is a Dim where it counts something, a plain number only where it is the same
    constant at every size. No attribute holds a batch or token count, so an op works the same on
    the tokens of a call (T) and on those of the context (S).
    """

    name: ClassVar[str]
    linear: ClassVar[bool] = False
    """Every result is linear in the operands that vary by token."""
    token_local: ClassVar[bool] = True
    """A token's results depend on that token's operands alone."""
    view: ClassVar[bool] = False
    """Its results are its one operand's elements, where they stand."""
    commutative: ClassVar[bool] = False
    stateful: ClassVar[bool] = False
    """It writes caches, and its last results are their contexts.

    The reference takes the rows of each cache last, and returns the rows after behind its results.
    """
    keeps: ClassVar[bool] = False
    """A stateful op that keeps rows as they are: what each is made into may be made after."""

    multiplied: ClassVar[tuple[str, ...]] = ()
    """Operands whose last axis is summed over with that of the first, which is read only so."""

    # Each op declares its own operands, so these are attributes of a callable type, not abstract
    # methods: an override may name its parameters.
    infer: ClassVar[Callable[..., TensorType | tuple[TensorType, ...]]]
    """Return the result types, or raise `GraphError`."""
    reference: ClassVar[Callable[..., Any]]
    """Compute the results in float64 with NumPy: what every rewrite and kernel is held to."""

    @classmethod
    def operand_names(cls) -> tuple[str, ...]:
        return tuple(inspect.signature(cls.infer).parameters)[1:]

    def named(self, count: int) -> tuple[str, ...]:
        """The names of the first so many operands: numbers, of an op that takes any number."""
        names = self.operand_names()
        return names[:count] if count <= len(names) else tuple(f"x{i}" for i in range(count))

    def types(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """The types of all results; raises `GraphError` for operands that the op cannot take."""
        try:
            inferred = self.infer(*operands)
        except TypeError:
            try:
                inspect.signature(self.infer).bind(*operands)
            except TypeError as error:
                raise GraphError(f"{self.name}: {error}") from None
            raise
        except (IndexError, ValueError) as error:  # an axis that is not there
            given = ", ".join(map(str, operands))
            raise GraphError(f"{self.name} does not take {given}") from error
        return inferred if isinstance(inferred, tuple) else (inferred,)

    @property
    def written(self) -> tuple[str, ...]:
        """The caches that a stateful op writes, in the order of its last results."""
        return (self.attributes()["cache"],) if self.stateful else ()

    def initial(self, operand: str) -> str:
        """How a parameter that is this operand starts out: "normal", "ones" or "zeros"."""
        return "normal"

    def trained(self, operand: str) -> bool:
        """Whether a parameter that is this operand has a gradient; else it starts as a constant."""
        return True

    def beginnings(self) -> Mapping[str, str]:
        """Operands whose rows are the first columns of another's, by the names of both.

        Who draws operands must know; whoever reads the other need not read them.
        """
        return {}

    def reach(self) -> Dim | None:
        """How many of the last rows of a context a token's result depends on; None: on all."""
        return None

    def pages(self) -> Dim | None:
        """How many slots a page has, of an op that reads contexts as they lie in pages.

        None: it reads rows that stand one behind the other.
        """
        return None

    def linear_in(self, varying: tuple[bool, ...]) -> bool:
        """Whether the results are linear in the operands that vary by token, all taken together,
        but for what the others add."""
        return self.linear

    def share(self, rows: int, *operands: TensorType) -> tuple[float, ...]:
        """The part of each operand that so many tokens are expected to need."""
        return (1.0,) * len(operands)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """What no way to compute this op at its real sizes can avoid.

        Here: no contraction, what is needed of each operand read once, each result written once.
        """
        shares = self.share(sizes.rows, *operands)
        read = sum(part * sizes.bytes(t) for part, t in zip(shares, operands, strict=True))
        return Cost(bytes=read + sum(map(sizes.bytes, self.types(*operands))))

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        """What no way to compute the gradients of the `wanted` operands can avoid, given those of
        its results.

        Here: of each product that was made, one for either side; what is needed of each operand is
        read once, of a linear op's one operand nothing, and so are the gradients of results; each
        that is wanted is written once.
        """
        shares = (0.0,) if self.linear and len(operands) == 1 else self.share(sizes.rows, *operands)
        read = sum(part * sizes.bytes(t) for part, t in zip(shares, operands, strict=True))
        read += sum(sizes.bytes(t) for t in self.types(*operands) if t.dtype in FLOATS)
        flops = 2 * self.cost(sizes, *operands).flops
        return Cost(flops, read + self.written_gradients(sizes, wanted, *operands))

    def written_gradients(
        self, sizes: Sizes, wanted: Collection[str], *operands: TensorType
    ) -> float:
        """The bytes of the gradients of the `wanted` operands."""
        named = zip(self.named(len(operands)), operands, strict=True)
        return sum(sizes.bytes(type) for name, type in named if name in wanted)

    def attributes(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def at(self, which: Which) -> Op:
        """This op at the model's sizes or at its probes: no Dim of it is a pair any more."""
        chosen = {name: _choose(value, which) for name, value in self.attributes().items()}
        return dataclasses.replace(self, **chosen)


def _choose(value: Any, which: Which) -> Any:
    if isinstance(value, Dim):
        return Dim.of(value.at(which))
    if isinstance(value, tuple):
        return tuple(_choose(item, which) for item in value)
    return value


def require(condition: bool, message: str) -> None:
    if not condition:
        raise GraphError(message)
