"""The pattern engine: passes as `pattern`, `check` and `rewrite`, with reasons for refusing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from ..errors import GraphError
from ..ir.build import kind
from ..ir.graph import Graph, Node, Value
from ..ir.op import Op
from .passes import StepwisePass
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


@dataclass(frozen=True)
class PatternOps:
    """Ops by name in a pattern: attributes given must be equal, `bind` names the op matched."""

    ops: Mapping[str, type[Op]]

    def __getattr__(self, op: str) -> Callable[..., Call]:
        known = {attribute.name for attribute in fields(kind(op, self.ops))}

        def call(*operands: Variable | Call, bind: str | None = None, **attributes: Any) -> Call:
            for name in attributes:
                if name not in known:
                    there = ", ".join(sorted(known)) or "none"
                    raise GraphError(f"{op} has no attribute {name}; there are: {there}")
            for operand in operands:
                if not isinstance(operand, Variable | Call):
                    raise GraphError(
                        f"an operand of {op} is {operand!r}, not a variable or an op's result"
                    )
            return Call(op, operands, bind, tuple(attributes.items()))

        return call


@dataclass(frozen=True)
class Match:
    """What the parts of a pattern stand for."""

    values: Mapping[Variable | Call, Value] = field(default_factory=dict)
    ops: Mapping[str, Op] = field(default_factory=dict)

    def bound(self, part: Variable | Call, value: Value, **ops: Op) -> Match:
        return Match({**self.values, part: value}, {**self.ops, **ops})

    def named(self) -> dict[str, Any]:
        variables = {k.name: v for k, v in self.values.items() if isinstance(k, Variable)}
        return variables | dict(self.ops)


@dataclass(frozen=True)
class RewritePass(StepwisePass):
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

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        """Replace the matches one after the other; what a rewrite made is not matched again."""
        for method in ("pattern", "rewrite"):
            if not hasattr(self, method):
                raise GraphError(f"it has no `{method}`")
        roots = self._roots(rewriter.ops)
        graph = rewriter.graph
        for name in [node.name for node in graph.nodes()]:
            node = graph.get(name)
            if node is None or node.op is None or node.op.name != roots[-1].op:
                continue
            match = self._match(graph, node, roots)
            if isinstance(match, Match):
                match = _reason(self._call(self.check, rewriter, match)) or match
            if not isinstance(match, Match):
                rewriter.refuse(node, match)
                continue
            old = [match.values[root] for root in roots]
            graph.scope = node.scope
            rewriter.replace(old, _results(self._call(self.rewrite, rewriter, match), roots))
            yield

    def _roots(self, ops: Mapping[str, type[Op]]) -> tuple[Call, ...]:
        names = tuple(inspect.signature(self.pattern).parameters)[1:]
        out = self.pattern(PatternOps(ops), *map(Variable, names))
        roots = out if isinstance(out, tuple) else (out,)
        if not roots or not all(isinstance(root, Call) for root in roots):
            raise GraphError(f"`pattern` returns {out!r}, not the result of an op, or several")
        return roots

    def _call(self, method: Callable[..., Any], rewriter: Rewriter, match: Match) -> Any:
        given = {"op": rewriter.op, "rewriter": rewriter, **match.named()}
        parameters = inspect.signature(method).parameters.values()
        several = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}
        for name, parameter in named.items():
            if name not in given and parameter.default is parameter.empty:
                there = ", ".join(given)
                raise GraphError(f"`{method.__name__}` asks for {name}; the pattern has {there}")
        return method(**{name: x for name, x in given.items() if several or name in named})

    def _match(self, graph: Graph, node: Node, roots: tuple[Call, ...]) -> Match | str:
        """The pattern on a node, or why it is not there."""
        why: list[str] = []
        last = roots[-1]
        match = next(_bind(graph, last, node.results[last.index], Match(), why), None)
        if match is None:
            return why[0]
        for root in roots:
            if root not in match.values:
                beside = [k for k in match.values if k == replace(root, index=_index(k))]
                if not beside:
                    return f"the pattern does not reach its {root.op} from its {last.op}"
                match = match.bound(root, graph.node(match.values[beside[0]]).results[root.index])
        return _escapes(graph, match, {match.values[root] for root in roots}) or match


def _reason(said: object) -> str | None:
    """What `check` returned."""
    if said is None or (isinstance(said, str) and said.strip()):
        return said
    raise GraphError(f"`check` returns {said!r}, not a reason in words, or None")


def _results(made: object, roots: tuple[Call, ...]) -> tuple[Value, ...]:
    """What `rewrite` returned: a value for each that the pattern returned."""
    results = made if isinstance(made, tuple) else (made,)
    for result in results:
        if not isinstance(result, Value):
            raise GraphError(f"`rewrite` returns {result!r}, which is no value of the graph")
    if len(results) != len(roots):
        raise GraphError(f"`rewrite` returns {len(results)} values, the pattern {len(roots)}")
    return results


def _escapes(graph: Graph, match: Match, kept: set[Value]) -> str | None:
    """Say who else reads a value that would be gone: one that is matched, but not `kept`."""
    nodes = {graph.node(v).name: graph.node(v) for k, v in match.values.items() if _index(k) >= 0}
    for node in nodes.values():
        for value in node.results:
            if value in kept:
                continue
            outside = [user for user in graph.users(value) if user.name not in nodes]
            if outside:
                return f"%{value.name} is also read by %{outside[0].name}"
            if value in graph.outputs:
                return f"%{value.name} is also returned by the block"
    return None


def _bind(
    graph: Graph, want: Variable | Call, have: Value, match: Match, why: list[str]
) -> Iterator[Match]:
    """Every way to let `want` stand for `have`; `why` gathers the reasons where one fails."""
    if want in match.values:
        if match.values[want] == have:
            yield match
        else:
            why.append(f"%{have.name} is not %{match.values[want].name}")
        return
    if isinstance(want, Variable):
        yield match.bound(want, have)
        return
    node = graph.node(have)
    reason = _differs(graph, want, have, node)
    if reason is not None or node.op is None:
        why.append(str(reason))
        return
    operands = graph.operands(node)
    orders = [operands]
    if node.op.commutative and operands[0] != operands[1]:
        orders.append(operands[::-1])
    bind = {want.bind: node.op} if want.bind else {}
    for order in orders:
        for found in _bind_all(graph, want.operands, order, match, why):
            yield found.bound(want, have, **bind)


def _bind_all(
    graph: Graph,
    wants: tuple[Variable | Call, ...],
    haves: tuple[Value, ...],
    match: Match,
    why: list[str],
) -> Iterator[Match]:
    if not wants:
        yield match
        return
    for found in _bind(graph, wants[0], haves[0], match, why):
        yield from _bind_all(graph, wants[1:], haves[1:], found, why)


def _differs(graph: Graph, want: Call, have: Value, node: Node) -> str | None:
    """Say in what an op differs from the one wanted, its operands' meaning aside."""
    if node.op is None or node.op.name != want.op:
        found = node.kind if node.op is None else node.op.name
        return f"%{have.name} is {_a(found)}, the pattern wants {_a(want.op)}"
    if node.results[want.index] != have:
        return f"%{have.name} is another result of {want.op} than the pattern wants"
    for name, value in want.attributes:
        given = node.op.attributes()[name]
        if given != value:
            return f"{name} of %{have.name} is {given}, not {value}"
    count = len(graph.operands(node))
    if count != len(want.operands):
        return f"%{have.name} has {count} operands, not {len(want.operands)}"
    return None


def _index(part: Variable | Call) -> int:
    """Which result of its op a part stands for; a variable is none."""
    return part.index if isinstance(part, Call) else -1


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
