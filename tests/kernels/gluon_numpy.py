"""Runs a Gluon kernel for Hopper in NumPy, a program at a time, and holds it to its waits.

Layouts mean nothing here; the order of what is asynchronous does. What a copy writes is not a
number until it was waited for, a product reads its operands when it is waited for, in the order of
products, and neither may meet what another warp has not been kept from by a fence and a barrier.
Threads see what others wrote behind a barrier.
"""

from __future__ import annotations

import itertools
import sys
from collections import ChainMap, deque
from collections.abc import Mapping, Sequence
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton
from kernels import checks
from kernels.checks import emitted


class Values(np.ndarray):
    """An array with the conversion that kernels write."""

    def to(self, dtype: Any) -> Values:
        return self.astype(dtype)


def values(x: Any) -> Values:
    return np.asarray(x).view(Values)


class Pointer:
    """Places in a tensor's memory."""

    def __init__(self, memory: np.ndarray, at: Any) -> None:
        self.memory, self.at = memory, np.asarray(at)
        self.dtype = SimpleNamespace(element_ty=memory.dtype)

    @classmethod
    def to(cls, tensor: torch.Tensor) -> Pointer:
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        if tensor.dtype.itemsize > 1:
            return cls(whole.numpy(), tensor.storage_offset())
        read = whole.float().numpy()  # NumPy has no float8
        read.flags.writeable = False
        return cls(read, tensor.storage_offset())

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.at + np.asarray(offset))

    def load(self, mask: Any = None) -> Values:
        there = np.broadcast_to(True if mask is None else mask, self.at.shape)
        assert ((self.at >= 0) & (self.at < self.memory.size) | ~there).all(), "read outside"
        return values(np.where(there, self.memory[np.where(there, self.at, 0)], 0))

    def store(self, value: Any, mask: Any = None) -> None:
        there = np.broadcast_to(True if mask is None else mask, self.at.shape)
        assert ((self.at >= 0) & (self.at < self.memory.size) | ~there).all(), (
            "it is written outside"
        )
        self.memory[self.at[there]] = np.broadcast_to(value, self.at.shape)[there]


class Buffer:
    """Shared memory of a program, or a part of it."""

    def __init__(self, data: np.ndarray, machine: Machine) -> None:
        self.data, self.machine = data, machine

    def index(self, i: Any) -> Buffer:
        return Buffer(self.data[int(i)], self.machine)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def permute(self, axes: Sequence[int]) -> Buffer:
        return Buffer(self.data.transpose(axes), self.machine)

    def slice(self, start: Any, length: int, dim: int = 0) -> Buffer:
        part = (slice(None),) * dim + (slice(int(start), int(start) + length),)
        return Buffer(self.data[part], self.machine)

    def load(self, layout: Any) -> Values:
        self.machine.reads(self)
        return values(self.data.copy())

    def store(self, value: Values) -> None:
        self.machine.writes(self)
        self.data[...] = value
        self.machine.written(self)


class Product:
    """What a matrix instruction will have computed of operands that stay as they are till then."""

    def __init__(self, operands: Sequence[Buffer | Values], before: Values | Product) -> None:
        self.operands, self.before = operands, before
        self.sum: Values | None = None

    def compute(self) -> None:
        a, b = (x.data if isinstance(x, Buffer) else x for x in self.operands)
        before = self.before.sum if isinstance(self.before, Product) else self.before
        assert before is not None, "it adds to what is not written"
        self.sum = values(a.astype(np.float32) @ b.astype(np.float32) + before)


class Machine:
    """One program's shared memory: who has touched what since the last fence and barrier."""

    def __init__(self) -> None:
        self.open: list[tuple[Buffer, Values]] = []
        self.groups: deque[list[tuple[Buffer, Values]]] = deque()
        self.unfenced: list[Buffer] = []
        self.fenced: list[Buffer] = []
        self.unseen: list[Buffer] = []
        self.read: list[Buffer] = []
        self.products: deque[Product] = deque()

    def writes(self, buffer: Buffer) -> None:
        being = [x for p in self.products for x in p.operands if isinstance(x, Buffer)]
        others = [*self.read, *self.unfenced, *self.fenced, *being]
        assert not touched(buffer, others), "written before all have read what was there"

    def written(self, buffer: Buffer) -> None:
        self.unfenced.append(buffer)
        self.unseen.append(buffer)

    def reads(self, buffer: Buffer) -> None:
        """By threads, which see what others wrote behind a barrier: a fence is for products."""
        assert not touched(buffer, self.unseen), "read before others have written"
        self.read.append(buffer)

    def copy(self, into: Buffer, pointer: Pointer, mask: Any = None) -> None:
        assert into.data.shape == pointer.at.shape
        self.writes(into)
        self.open.append((into, pointer.load(mask)))
        into.data[...] = np.nan

    def commit(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def wait(self, outstanding: int) -> None:
        while len(self.groups) > outstanding:
            for into, data in self.groups.popleft():
                into.data[...] = data
                self.written(into)

    def fence(self) -> None:
        self.fenced += self.unfenced
        self.unfenced = []

    def barrier(self) -> None:
        self.fenced, self.unseen, self.read = [], [], []

    def multiply(
        self,
        a: Buffer | Values,
        b: Buffer,
        acc: Values | Product,
        *,
        use_acc: bool = True,
        is_async: bool,
    ) -> Product:
        before = acc if use_acc else values(np.float32(0))
        self.products.append(Product((a, b), before))
        return self.products[-1]

    def finish(self, outstanding: int, deps: Sequence[Product | Values]) -> Any:
        """The sums of products, but for the last few; what else is given is kept as it is."""
        while len(self.products) > outstanding:
            product = self.products.popleft()
            for x in product.operands:
                if not isinstance(x, Buffer):
                    assert any(x is kept for kept in deps), (
                        "registers are written anew while they are read"
                    )
                    continue
                assert not touched(x, [*self.unfenced, *self.fenced]), (
                    "read before all have written"
                )
                self.read.append(x)
            product.compute()
        found = [x.sum if isinstance(x, Product) else x for x in deps]
        assert all(x is not None for x in found), "it is not written before it was waited for"
        return found[0] if len(found) == 1 else found


def initial(x: Values) -> Product:
    """A sum that nothing is to be added to before it is taken."""
    product = Product((), x)
    product.sum = x
    return product


def touched(buffer: Buffer, others: Sequence[Buffer]) -> bool:
    return any(np.shares_memory(buffer.data, other.data) for other in others)


class Emulated(triton.KernelInterface[Any]):
    """Stands in for a Gluon function of an emitted file: `emulated[grid](*arguments)`."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.name = name
        parts = [f.fn.__globals__ for f in vars(module).values() if getattr(f, "is_gluon", bool)()]
        self.names = dict(ChainMap(vars(module), *parts))

    def run(self, *given: Any, grid: Sequence[int], warmup: bool, **constants: Any) -> None:
        constants.pop("num_warps")
        given = tuple(Pointer.to(x) if isinstance(x, torch.Tensor) else x for x in given)
        with np.errstate(all="ignore"):
            for program in itertools.product(*map(range, grid)):
                scope = _scope(self.names, Machine(), program, grid)
                scope[self.name](*given, **constants)


def emulate(monkeypatch: pytest.MonkeyPatch, file: str, name: str) -> None:
    """Have kernels emitted where Gluon is there: NumPy runs a function of one of their files."""

    def patched(*arguments: Any) -> ModuleType:
        module = emitted(*arguments)
        monkeypatch.setattr(module, "runs_on_hopper", lambda x: True)
        part = sys.modules[f"{module.__package__}.{file}"]
        monkeypatch.setattr(module, name, Emulated(part, name))
        return module

    monkeypatch.setattr(checks, "emitted", patched)


def _scope(
    names: Mapping[str, Any], machine: Machine, program: Sequence[int], grid: Sequence[int]
) -> dict[str, Any]:
    """An emitted file's names, its Gluon functions and their language those of a program here."""
    scope = {
        **names,
        "gl": _language(machine, program, grid),
        "tl": SimpleNamespace(range=lambda *ends, **_: map(values, range(*map(int, ends)))),
        "async_copy": SimpleNamespace(commit_group=machine.commit, wait_group=machine.wait),
        "copy_to_shared": machine.copy,
        "barrier": machine.barrier,
        "fence_async_shared": machine.fence,
        "warpgroup_mma": machine.multiply,
        "warpgroup_mma_init": initial,
        "warpgroup_mma_wait": machine.finish,
    }
    for name, function in names.items():
        if getattr(function, "is_gluon", bool)():
            scope[name] = FunctionType(function.fn.__code__, scope, name)
    return scope


def _language(machine: Machine, program: Sequence[int], grid: Sequence[int]) -> SimpleNamespace:
    def layout(*_: Any, **__: Any) -> None:
        return None

    def allocate(dtype: Any, shape: Sequence[int], layout: Any) -> Buffer:
        return Buffer(np.full(shape, np.nan, dtype), machine)

    return SimpleNamespace(
        **dict.fromkeys(
            (
                *("BlockedLayout", "NVMMASharedLayout", "NVMMADistributedLayout"),
                *("SliceLayout", "SwizzledSharedLayout", "DotOperandLayout"),
            ),
            layout,
        ),
        allocate_shared_memory=allocate,
        arange=lambda start, end, layout: values(np.arange(start, end)),
        cast=lambda x, dtype: values(x).to(dtype),
        cdiv=lambda a, b: -(-a // b),
        constexpr=None,
        convert_layout=lambda x, layout: x,
        exp2=lambda x: values(np.exp2(x)),
        float32=np.float32,
        full=lambda shape, value, dtype, layout: values(np.full(shape, value, dtype)),
        int32=np.int32,
        int64=np.int64,
        load=lambda at, mask=None, other=0: at.load(mask),
        log2=lambda x: values(np.log2(x)),
        max=lambda x, axis: values(x.max(axis)),
        maximum=lambda a, b: values(np.maximum(a, b)),
        min=lambda x, axis: values(x.min(axis)),
        minimum=lambda a, b: values(np.minimum(a, b)),
        num_programs=lambda axis: grid[axis],
        program_id=lambda axis: values(program[axis]),
        static_range=range,
        store=lambda at, value, mask=None: at.store(value, mask),
        sum=lambda x, axis: values(x.sum(axis)),
        where=lambda mask, a, b: values(np.where(mask, a, b)),
    )
