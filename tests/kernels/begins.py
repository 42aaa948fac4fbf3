"""What a kernel's text says of when it begins: on every path, and before what."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

# Of Triton's and Gluon's functions and methods those that reach memory which others may write.
REACH = {
    *("load", "store", "atomic_add", "atomic_max", "atomic_cas", "atomic_xchg"),
    *("copy_to_shared", "async_load", "async_copy_global_to_shared", "gather", "scatter"),
}
OWN = {"math"}  # whose functions are not asked about


def begins(kernel: Any) -> bool:
    """Whether a kernel waits for the launch before it: once, on every path, and before all else.

    AssertionError where it does on some paths only, twice, or too late. What decides a path is not
    looked at, so all are taken.
    """
    ends = {end for end in _Paths(kernel).of({False})}
    assert len(ends) == 1, f"{_name(kernel)} waits on some paths only"
    return ends.pop()


class _Paths:
    """A function's paths; a state says whether the kernel has waited."""

    def __init__(self, kernel: Any) -> None:
        self.name, self.scope = _name(kernel), kernel.fn.__globals__
        text = textwrap.dedent(inspect.getsource(kernel.fn))
        (self.function,) = ast.parse(text).body
        self.ends: set[bool] = set()
        self.reached = False

    def of(self, states: set[bool]) -> set[bool]:
        """The states in which it ends where it is entered in these."""
        return self._block(self.function.body, states) | self.ends

    def _block(self, statements: list[ast.stmt], states: set[bool]) -> set[bool]:
        for statement in statements:
            states = self._statement(statement, states)
        return states

    def _statement(self, statement: ast.stmt, states: set[bool]) -> set[bool]:
        inner = [getattr(statement, part) for part in ("body", "orelse") if hasattr(statement, part)]
        for call in self._calls(statement):
            states = self._call(call, states)
        if isinstance(statement, ast.Return):
            self.ends |= states
            return set()
        if not inner:
            return states
        taken = [self._block(block, states) for block in inner]
        return set().union(*taken, states if isinstance(statement, ast.For | ast.While) else set())

    def _calls(self, statement: ast.stmt) -> Iterator[ast.Call]:
        """Those of a statement itself, in the order in which they end."""
        heads = [
            part
            for name, part in ast.iter_fields(statement)
            if name not in ("body", "orelse")
        ]
        for head in heads:
            for node in head if isinstance(head, list) else [head]:
                if isinstance(node, ast.AST):
                    yield from _inside_out(node)

    def _call(self, call: ast.Call, states: set[bool]) -> set[bool]:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        if name == "begin":
            assert not any(states), f"{self.name} waits twice"
            return {True for _ in states}
        callee = self.scope.get(ast.unparse(call.func))
        if hasattr(callee, "fn"):
            return _Paths(callee).of(states)
        if name in REACH and False in states:
            raise AssertionError(f"{self.name} reaches memory before it waits: {ast.unparse(call)}")
        return states


def _inside_out(node: ast.AST) -> Iterator[ast.Call]:
    for child in ast.iter_child_nodes(node):
        yield from _inside_out(child)
    if isinstance(node, ast.Call):
        yield node


def _name(kernel: Any) -> str:
    return str(kernel.fn.__name__)
