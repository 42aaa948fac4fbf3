"""What a kernel is: how one op is computed on a target, and what the model's code calls."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, ClassVar

from ..ir.op import Op
from ..ir.types import TensorType
from .code import Code


class Kernel:
    """One way to compute an op.

    A kernel that is a function of its own has a template of the same stem beside it, which is
    emitted to `kernels/<stem>.py`; one that is a line of PyTorch has none.
    """

    name: ClassVar[str]
    implements: ClassVar[str]
    """The op."""
    functions: ClassVar[tuple[str, ...]] = ()
    """What `model.py` imports from the emitted file."""

    def refuses(self, op: Op, operands: tuple[TensorType, ...], target: Any) -> str | None:
        """Say why this kernel cannot compute `op` here, or None."""
        return None

    # Each kernel names its op's operands, so this is an attribute of a callable type: an override
    # may name its parameters.
    call: ClassVar[Callable[..., Code]]
    """call(op, *operands, phases): the expression that gives the op's result, or all its results.

    `op` has its real sizes, operands are `Code`; `phases` are those that run this code. Where an
    op reads a cache that keeps a window of rows, `held` is also given: int64 [B, S], the positions
    that the context's slots hold, or None where slot s holds position s.
    """

    @classmethod
    def stem(cls) -> str:
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def template(cls) -> str | None:
        """The text of the template beside the class, where it has one."""
        if not cls.functions:
            return None
        package = cls.__module__.rpartition(".")[0]
        return (files(package) / f"{cls.stem()}.py.jinja").read_text(encoding="utf-8")
