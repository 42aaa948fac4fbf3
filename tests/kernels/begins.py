"""When a kernel begins, by its text: it waits on every path, and before what."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

# Functions and methods of Triton and Gluon that reach memory which others may read or write.
REACH = (
    *("load", "store", "atomic_add", "atomic_cas", "atomic_max", "atomic_xchg"),
    *("copy_to_shared", "gather", "scatter"),
)


def begins(kernel: Any) -> bool:
    """Whether a kernel waits for the launch before it: once, on every path, and before all else.

    Raises AssertionError where it does so late, twice, or on some paths. What decides a path is not
    looked at, so each is taken; a loop, also not at all.
    """
    paths = Paths(kernel)
    ends = paths.of(frozenset({False}))
    assert len(ends) == 1, f"{paths.name} waits on some paths only"
    (waited,) = ends
    return waited


class Paths:
    """The paths of a function. What is known of one is whether the kernel has waited."""

    def __init__(self, kernel: Any) -> None:
        self.name, self.scope = str(kernel.fn.__name__), kernel.fn.__globals__
        (self.function,) = ast.parse(textwrap.dedent(inspect.getsource(kernel.fn))).body
        self.returned: frozenset[bool] = frozenset()

    def of(self, known: frozenset[bool]) -> frozenset[bool]:
        """What is known where it ends, of what is known where it is called."""
        assert isinstance(self.function, ast.FunctionDef)
        return self._block(self.function.body, known) | self.returned

    def _block(self, statements: Sequence[ast.stmt], known: frozenset[bool]) -> frozenset[bool]:
        for statement in statements:
            known = self._statement(statement, known)
        return known

    def _statement(self, statement: ast.stmt, known: frozenset[bool]) -> frozenset[bool]:
        blocks = dict(ast.iter_fields(statement))
        inner = [blocks.pop(name) for name in ("body", "orelse") if name in blocks]
        for call in _calls(list(blocks.values())):
            known = self._call(call, known)
        if isinstance(statement, ast.Return):
            self.returned |= known
            return frozenset()
        if not inner:
            return known
        ends = [self._block(block, known) for block in inner]
        return frozenset().union(*ends)  # of a loop, `orelse` is where it is not entered

    def _call(self, call: ast.Call, known: frozenset[bool]) -> frozenset[bool]:
        name = ast.unparse(call.func)
        if name == "begin":
            assert True not in known, f"{self.name} waits twice"
            return frozenset({True})
        if hasattr(self.scope.get(name), "fn"):
            return Paths(self.scope[name]).of(known)
        early = name.rpartition(".")[2] in REACH and False in known
        assert not early, f"{self.name} does not wait before {ast.unparse(call)}"
        return known


def _calls(parts: Any) -> Iterator[ast.Call]:
    """The calls in parts of a statement, each behind those of its arguments."""
    if isinstance(parts, list):
        for part in parts:
            yield from _calls(part)
    elif isinstance(parts, ast.AST):
        yield from _calls([value for _, value in ast.iter_fields(parts)])
        if isinstance(parts, ast.Call):
            yield parts
