"""Margins around what a kernel reads and writes, which tell of every access outside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

MARGIN = 1 << 14  # elements on either side of a tensor, which no kernel may touch
UNTOUCHED = -80.0  # which float8 has as well


def guarded(tensor: torch.Tensor, wider: int | tuple[int, ...] = 0) -> torch.Tensor:
    """The same tensor between numbers that are none, as the beginning of axes `wider` at most."""
    last = (wider,) if isinstance(wider, int) else wider
    missing = (0,) * (tensor.dim() - len(last))
    whole = [max(sizes) for sizes in zip(tensor.shape, (*missing, *last), strict=True)]
    room = torch.empty(MARGIN + math.prod(whole) + MARGIN, dtype=tensor.dtype)
    lowest = {torch.int8: -128, torch.int32: -(2**30)}.get(tensor.dtype, -(2**40))
    room.fill_(float("nan") if tensor.is_floating_point() else lowest)
    inside = room[MARGIN:-MARGIN].view(whole)[tuple(slice(size) for size in tensor.shape)]
    inside.copy_(tensor)
    return inside


class Guards(TorchFunctionMode):
    """Gives every new tensor margins, and tells whether they stayed as they were.

    A write past the margins is not made: a kernel that is broken on purpose would otherwise
    write into whatever the test's own process keeps there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[torch.Tensor] = []
        self._allocated: list[torch.Tensor] = []
        self._stray = 0
        self._store = InterpreterBuilder.create_masked_store

    def __enter__(self) -> Guards:
        def store(builder: Any, at: TensorHandle, value: Any, mask: Any, cache: Any) -> None:
            ours = np.zeros(at.data.shape, dtype=bool)
            for room in self._allocated:
                first = room.data_ptr()
                last = first + room.numel() * room.itemsize - value.data.itemsize
                ours |= (at.data >= first) & (at.data <= last)
            self._stray += int((mask.data & ~ours).sum())
            inside = TensorHandle(mask.data & ours, mask.dtype)
            self._store(builder, at, value, inside, cache)

        InterpreterBuilder.create_masked_store = store
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        InterpreterBuilder.create_masked_store = self._store
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in (
            *("empty", "empty_like", "new_empty", "zeros", "new_zeros"),
        ):
            return made
        if made.dtype == torch.uint8:  # the interpreter's own, of bits that a kernel is given
            self._allocated.append(made)
            return made
        room = torch.Tensor.new_full(made, (made.numel() + 2 * MARGIN,), UNTOUCHED)
        self._rooms.append(room)
        self._allocated.append(room)
        inside = room[MARGIN:-MARGIN].view(made.shape)
        if func.__name__ in ("zeros", "new_zeros"):
            inside.zero_()
        return inside

    def check(self) -> None:
        """AssertionError where a kernel has written anywhere but into what it returns."""
        assert self._rooms, "nothing was allocated in a way that is guarded"
        assert not self._stray, f"{self._stray} numbers were written far from any tensor"
        for room in (room.float() if room.itemsize == 1 else room for room in self._rooms):
            assert (room[:MARGIN] == UNTOUCHED).all(), "something was written before a tensor"
            assert (room[-MARGIN:] == UNTOUCHED).all(), "something was written behind a tensor"
