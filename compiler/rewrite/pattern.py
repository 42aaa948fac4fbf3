"""The pattern engine: passes as `pattern`, `check` and `rewrite`, with reasons for refusing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..ir.graph import Graph, Node, Value
from .passes import Pass
from .rewriter import Rewriter


@dataclass(frozen=True)
class Variable:
    """A pattern's parameter: any value, the same wherever it appears."""

    name: str


@dataclass(frozen=True)
class Call:
    """A pattern of one op's result; `call[1]` is its second result."""

    op: str
    operands: tuple[Variable | Call, ...]
    bind: str | None
    attributes: tuple[tuple[str, Any], ...]
    index: int = 0

    def __getitem__(self, index: int) -> Call:
        return Call(self.op, self.operands, self.bind, self.attributes, index)


class PatternOps:
    """Ops by name in a pattern: attributes given must be equal, `bind` names the op matched."""

    def __getattr__(self, op: str) -> Callable[..., Call]:
        def call(*operands: Variable | Call, bind: str | None = None, **attributes: Any) -> Call:
            return Call(op, operands, bind, tuple(attributes.items()))

        return call


@dataclass
class Match:
    """What the parts of a pattern stand for, or the first reason why they stand for nothing."""

    values: dict[Variable | Call, Value] = field(default_factory=dict)
    ops: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def fail(self, reason: str) -> bool:
        self.reason = self.reason or reason
        return False

    def named(self) -> dict[str, Any]:
        variables = {k.name: v for k, v in self.values.items() if isinstance(k, Variable)}
        return variables | self.ops


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that replaces every match of one pattern.

    `pattern(self, op, ...)`: its parameters are variables; it returns the value or values that the
    rest of the graph may read, of which the last is where a match is looked for.
    `check(self, *, rewriter, ...)`: why a match must be left alone, or None.
    `rewrite(self, op, ...)`: a value for each that the pattern returned. Both are given every
    variable and every bound op by name.
    """

    pattern: ClassVar[Callable[..., Any]]
    check: ClassVar[Callable[..., str | None]] = lambda self, **match: None
    rewrite: ClassVar[Callable[..., Any]]

    def run(self, rewriter: Rewriter) -> None:
        for _ in self.applications(rewriter):
            pass

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        """Replace the matches one after the other; what a rewrite made is not matched again."""
        roots = self._roots()
        graph = rewriter.graph
        for name in [node.name for node in graph.nodes()]:
            node = graph.get(name)
            if node is None or node.op is None or node.op.name != roots[-1].op:
                continue
            match = self._match(graph, node, roots)
            if match.reason is None:
                match.reason = self._call(self.check, rewriter, match)
            if match.reason is not None:
                rewriter.refuse(node, match.reason)
                continue
            old = [match.values[root] for root in roots]
            graph.scope = node.scope
            new = self._call(self.rewrite, rewriter, match)
            rewriter.replace(old, new if isinstance(new, tuple) else (new,))
            yield

    def _roots(self) -> tuple[Call, ...]:
        names = tuple(inspect.signature(self.pattern).parameters)[1:]
        out = self.pattern(PatternOps(), *map(Variable, names))
        return out if isinstance(out, tuple) else (out,)

    def _call(self, method: Callable[..., Any], rewriter: Rewriter, match: Match) -> Any:
        given = {"op": rewriter.op, "rewriter": rewriter, **match.named()}
        parameters = inspect.signature(method).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return method(**given)
        return method(**{p.name: given[p.name] for p in parameters})

    def _match(self, graph: Graph, node: Node, roots: tuple[Call, ...]) -> Match:
        match = Match()
        last = roots[-1]
        if not _bind(graph, last, node.results[last.index], match):
            return match
        missing = [root for root in roots if root not in match.values]
        if missing:
            match.fail(f"the pattern does not reach its {missing[0].op} from its {last.op}")
            return match
        kept = {match.values[root] for root in roots}
        calls = [value for key, value in match.values.items() if isinstance(key, Call)]
        inside = {graph.node(value).name for value in calls}
        for name in inside:
            for value in next(graph.node(v) for v in calls if graph.node(v).name == name).results:
                if value in kept:
                    continue
                outside = [user for user in graph.users(value) if user.name not in inside]
                if outside:
                    match.fail(f"%{value.name} is also read by %{outside[0].name}")
                elif value in graph.outputs:
                    match.fail(f"%{value.name} is also returned by the block")
        return match


def _bind(graph: Graph, want: Variable | Call, have: Value, match: Match) -> bool:
    """Let `want` stand for `have`, if it can; a failed attempt leaves the match as it was."""
    if want in match.values:
        if match.values[want] == have:
            return True
        return match.fail(f"%{have.name} is not %{match.values[want].name}")
    if isinstance(want, Variable):
        match.values[want] = have
        return True
    node = graph.node(have)
    if node.op is None or node.op.name != want.op:
        found = node.kind if node.op is None else node.op.name
        return match.fail(f"%{have.name} is {_a(found)}, the pattern wants {_a(want.op)}")
    if node.results[want.index] != have:
        return match.fail(f"%{have.name} is another result of {want.op} than the pattern wants")
    for name, value in want.attributes:
        given = node.op.attributes()[name]
        if given != value:
            return match.fail(f"{name} of %{have.name} is {given}, not {value}")
    operands = graph.operands(node)
    if len(operands) != len(want.operands):
        return match.fail(f"%{have.name} has {len(operands)} operands, not {len(want.operands)}")
    orders = [operands]
    if node.op.commutative and operands[0] != operands[1]:
        orders.append(operands[::-1])
    reasons = []
    for order in orders:
        attempt = Match(dict(match.values), dict(match.ops))
        if all(_bind(graph, w, h, attempt) for w, h in zip(want.operands, order, strict=True)):
            match.values, match.ops = attempt.values, attempt.ops
            match.values[want] = have
            if want.bind:
                match.ops[want.bind] = node.op
            return True
        reasons.append(attempt.reason)
    return match.fail(next(filter(None, reasons), f"%{have.name} does not fit"))


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
