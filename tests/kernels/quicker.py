"""Triton's interpreter without what it does again at every call, and what it does in vain.

It takes most of the time of these tests, and none of its own goes into numbers: what a kernel
computes stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from triton import language
from triton.runtime import interpreter


@contextmanager
def quicker() -> Iterator[None]:
    """Let kernels be interpreted in less time, until it is left."""
    with pytest.MonkeyPatch.context() as patch:
        # Sums are made once more in 64 bits to see whether they overflow, and nothing asks for
        # the answer unless Triton is debugged.
        options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", options)
        patch.setattr(interpreter, "_get_np_dtype", _by_name(interpreter._get_np_dtype))
        patch.setattr(interpreter, "_patch_lang", Patched(interpreter._patch_lang))
        yield


def _by_name(function: Callable[[Any], np.dtype[Any]]) -> Callable[[Any], np.dtype[Any]]:
    """What makes a table of all dtypes at each call, with a table of what it answered."""
    found: dict[str, np.dtype[Any]] = {}

    def dtype(kind: Any) -> np.dtype[Any]:
        name = str(kind.scalar)
        if name not in found:
            found[name] = function(kind)
        return found[name]

    return dtype


class Patched:
    """The language in the form that computes, made once for a kernel that runs, not once more for
    each function that it calls."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._modules: set[str] = set()
        """Those in that form, while a kernel runs."""
        self._scope: Any = None

    def __call__(self, fn: Any) -> Patched:
        used = {m.__name__ for m in fn.__globals__.values() if m is language or m is language.core}
        if not self._modules:
            self._scope = self._make(fn)
        elif not used <= self._modules:
            self._make(fn)  # for good, as it always is within a kernel
        self._modules |= used
        return self

    def restore(self) -> None:
        """Give the language back as it was: the kernel has run."""
        self._modules.clear()
        self._scope.restore()
