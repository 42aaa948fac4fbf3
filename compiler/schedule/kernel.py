"""What a kernel is: how one op is computed on a target, and what the model's code calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, ClassVar

from ..errors import ArchsmithError, PluginError
from ..ir.cost import Cost, Sizes
from ..ir.types import FLOATS, TensorType
from ..machine.target import Target
from .code import Code


@dataclass(frozen=True)
class Config:
    """What a Triton kernel is compiled with: its constants, and how many warps and stages."""

    constants: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int | None = None
    """How many steps of a loop are in flight; None where there is no loop."""
    measured: bool = field(default=False, compare=False)
    """Whether a table of measured tiles says so, and not the roofline."""

    def options(self) -> dict[str, int]:
        """As keywords of a launch."""
        stages = {} if self.num_stages is None else {"num_stages": self.num_stages}
        return {**self.constants, "num_warps": self.num_warps, **stages}


CANDIDATES = 24
"""Configurations that a kernel may offer for one number of rows: each takes time to measure."""


@dataclass(frozen=True)
class Use:
    """One op that a kernel computes in a package, and the tiles that it is compiled with."""

    op: Any
    operands: tuple[TensorType, ...]
    tiles: tuple[tuple[int | None, Config], ...] = ()
    """Up to how many rows a configuration serves, the smallest first; None: any number."""


@contextmanager
def blamed(kernel: Kernel) -> Iterator[None]:
    """Raise what goes wrong in a kernel's own code as a `PluginError` that names it."""
    try:
        yield
    except ArchsmithError:
        raise
    except Exception as error:
        where = f"kernel {kernel.name} ({type(kernel).__module__})"
        raise PluginError(f"{where}: {type(error).__name__}: {error}") from error


class Kernel:
    """One way to compute an op.

    A kernel that is a function of its own has a template of the same stem beside it, which is
    emitted to `kernels/<stem>.py`; one that is a line of PyTorch has none.
    """

    name: ClassVar[str]
    implements: ClassVar[str]
    """The op."""
    functions: ClassVar[tuple[str, ...]] = ()
    """What `model.py` may import from the emitted file; `function` says which of them."""
    triton: ClassVar[bool] = False
    """Whether its file holds Triton kernels, which run on a GPU alone."""
    gluon: ClassVar[bool] = False
    """Whether they are in Gluon, for GPUs of one generation: on others `reference` runs."""
    reference: ClassVar[str] = ""
    """The kernel, by name, whose function is this one's path where it cannot run: in PyTorch, or
    in Triton and from there in PyTorch. It serves all ops that this one does."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Stems of templates beside its own: each becomes a file too, which other files import."""
    phases: ClassVar[tuple[str, ...]] = ("train", "prefill", "decode")
    """Those that it serves."""
    gradient: ClassVar[str] = ""
    """The kernel of its gradients, by name, without which it serves no training."""
    packed: ClassVar[bool] = False
    """Whether it takes no list of tensors, one an expert, for a parameter."""
    ladder: ClassVar[tuple[int, ...]] = ()
    """Rows of a call (batch x tokens) up to which other tiles may be best, the smallest first.

    One that counts other rows says in `example` what call has so many.
    """

    # `op` is of the class that a kernel implements, which its override may say.

    def refuses(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> str | None:
        """Say why this kernel cannot compute `op` here, or None."""
        return None

    def cost(self, op: Any, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        """What this way to compute `op` takes, to choose by. Here: the op's own cost, once."""
        cost: Cost = op.cost(sizes, *operands)
        return cost + Cost(launches=1) if cost.bytes else cost  # a view is no launch

    def configs(
        self, op: Any, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """What to compile with for calls of about so many rows, the best first.

        At most `CANDIDATES` of them, each of which gives the right result and fits the target:
        `archsmith tune` measures all.
        """
        yield from ()

    def key(self, op: Any, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        """The sizes that tiles are looked up by in the emitted file: ops alike in them share tiles.

        Here: every size of every operand.
        """
        return tuple(axis.size for type in operands for axis in type.row)

    def rungs(self) -> Iterator[tuple[int | None, int]]:
        """Up to how many rows tiles serve (None: any number), and the rows they are chosen for."""
        yield from ((limit, limit) for limit in self.ladder)
        yield None, 4 * self.ladder[-1] if self.ladder else 1

    def example(self, op: Any, operands: tuple[TensorType, ...], rows: int, usual: Sizes) -> Sizes:
        """A call that tiles for so many rows serve, of the kind of a phase's `usual` one."""
        return Sizes(rows, 1, usual.context) if usual.tokens == 1 else Sizes(1, rows, rows)

    def beside(self, op: Any, operands: tuple[TensorType, ...]) -> Iterator[Step]:
        """What its file has other kernels compute, for calls that it does not launch itself."""
        yield from ()

    def function(self, op: Any) -> str:
        """Which of its functions computes an op."""
        return self.functions[0]

    def counters(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> int:
        """How many counters it wants of a cache for each row, to tell which program is the last."""
        return 0

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        """Constants of the emitted file, by name: numbers, strings, and dictionaries of them.

        The template is given each as the statement that defines it, `{{ tables.NAME }}`.
        """
        return {}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        """What the template is given beside what all are: Code, numbers and truths."""
        return {}

    # Each kernel names its op's operands, so this is an attribute of a callable type: an override
    # may name its parameters.
    call: ClassVar[Callable[..., Code]]
    """call(op, *operands, phases): the expression that gives the op's result, or all its results.

    `op` has its real sizes, operands are `Code`; `phases` are those that run this code. Where an
    op reads a cache that keeps a window of rows, `held` is also given: int64 [B, S], the positions
    that the context's slots hold, or None where slot s holds position s. Where an op reads contexts
    as they lie in pages (`Op.pages`), they are [P, page, *row], and `table` is also given, int32
    [B, C], the page of each `page` slots of a row, and `slots`, how many S is. An op that keeps
    rows is told `as_pages` where it is to hand out these pages. In decode, a kernel with `counters`
    is given `arrived`, int32, zeros that are zeros again behind it. Of an op that is stateful
    and does more than to keep rows, it is a function called with operands alone; emitted code has
    the cache call it, with the buffers that it writes and their slots before them.
    """

    @classmethod
    def stem(cls) -> str:
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def template(cls, part: str = "") -> str | None:
        """The text of the template beside the class, or of one of its parts, where it has one."""
        if not cls.functions:
            return None
        package = cls.__module__.rpartition(".")[0]
        return (files(package) / f"{part or cls.stem()}.py.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Step:
    """An op that a kernel's file has another kernel compute, whose function it imports."""

    kernel: Kernel
    op: Any
    operands: tuple[TensorType, ...]


class GradientKernel(Kernel):
    """What computes the gradients of another kernel's op, where it is trained.

    Its one function is made an operator by `gradient` of `operators.py`. `refuses`, `cost`,
    `configs` and `tables` are given the op and its operands; `call` the operands, and behind them
    the gradients of those results that are floats. Where any use is refused, PyTorch computes the
    results again for their gradients, as it does where there is no such kernel. One that stands in
    the module of the other kernel has its text in that one's template; one that offers no `configs`
    is compiled with the other's, which are then measured for both.
    """

    implements = ""
    differentiates: ClassVar[str]
    """The kernel, by name; others that keep and give the same may name this one as `gradient`."""
    constant: ClassVar[tuple[str, ...]] = ()
    """Operands of floats, by name, whose gradients it does not compute."""
    saved: ClassVar[tuple[int, ...]] = ()
    """The other's results, by number, that it is given too, between operands and gradients."""
    of_several: ClassVar[bool] = False
    """Whether of a single token, which has nothing to choose from, some are zero."""
    triton = True
    phases = ("train",)

    def kept(self, op: Any, operands: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        """What the other gives behind the op's results, for the gradients alone."""
        return ()


def untrained(
    kernel: Kernel,
    gradients: Sequence[GradientKernel],
    op: Any,
    operands: tuple[TensorType, ...],
    target: Target,
) -> str | None:
    """Why the kernel that `kernel` is trained with does not compute its gradients, or None."""
    for other in gradients:
        if other.name == kernel.gradient:
            with blamed(other):
                reason = other.refuses(op, operands, target)
            return None if reason is None else f"its gradients: {reason}"
    return f"there is no {kernel.gradient}"


def operands(kernel: Kernel, use: Use) -> dict[str, TensorType]:
    """What a kernel is given, by name: an op's operands, and for gradients those of results."""
    given = dict(zip(use.op.named(len(use.operands)), use.operands, strict=True))
    if isinstance(kernel, GradientKernel):
        results = use.op.infer(*use.operands)
        results = results if isinstance(results, tuple) else (results,)
        kept = kernel.kept(use.op, use.operands)
        given |= {f"result_{i}": (*results, *kept)[i] for i in kernel.saved}
        floats = [type for type in results if type.dtype in FLOATS]
        given |= {f"gradient_{i}": type for i, type in enumerate(floats)}
    return given
