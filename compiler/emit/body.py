"""From a graph to the statements of a function: names kept, small expressions folded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..ir.dims import Dim, Which
from ..ir.graph import Graph, Node, Value
from ..ir.types import TensorType
from ..schedule.code import Code, call, name, tuple_of
from ..schedule.kernel import Kernel
from .branches import Served, branches
from .contexts import Contexts
from .layout import WIDTH, statement, words
from .routers import told

FOLDED = 72  # columns: what is longer gets a line and a name of its own

RESERVED = frozenset(
    {"self", "torch", "F", "nn", "math", "cache", "tokens", "step", "layer", "layers", "None"}
)


@dataclass(frozen=True)
class Folded:
    """An expression that has no line yet, and the values that its variables hold."""

    code: Code
    leaves: tuple[Value, ...]


@dataclass
class Writer:
    """Writes the body of one graph of a block.

    `given` are the values that exist before the body: inputs, parameters, and what the model
    computes once for all blocks.
    """

    graph: Graph
    kernels: Callable[[Node], Served]
    phases: tuple[str, ...]
    given: Mapping[str, Code]
    which: Which = "size"
    indent: int = 8
    targets: tuple[str, ...] = ()
    """Assign the outputs to these variables, instead of returning them."""
    reserved: frozenset[str] = RESERVED
    condition: Callable[[tuple[str, ...]], str] = " or ".join
    """What holds in some of the phases alone, as a test."""
    contexts: Contexts = field(default_factory=Contexts)
    routers: Mapping[str, str] = field(default_factory=dict)
    """What the choices of experts that are recorded are called, by the op's node."""
    block: str = ""
    trace: bool = False
    """Follow each statement by one that tells `trace` what it computed."""
    lines: list[str] = field(default_factory=list)
    _code: dict[Value, Folded] = field(default_factory=dict)
    _bound: dict[str, Value] = field(default_factory=dict)
    _needs: Counter[Value] = field(default_factory=Counter)
    _scope: str = ""
    _guarded: bool = False
    """Whether the last line stands under `if cache is not None:`."""

    def write(self) -> list[str]:
        for node in self.graph.nodes():
            for value in node.results:
                if value.name in self.given:
                    self._code[value] = Folded(self.given[value.name], (value,))
                    self._bound[self.given[value.name].text] = value
        work = [n for n in self.graph.nodes() if n.op and n.results[0].name not in self.given]
        for node in work:
            self._needs.update(self.graph.operands(node))
        self._needs.update(self.graph.outputs)
        for node in work:
            self._node(node)
            if recorded := self.routers.get(node.name):
                given, index = self.graph.operands(node)[0], node.results[0]
                codes = self._code[given].code, self._code[index].code
                self.lines += told(recorded, *codes, indent=self.indent)
        self._return()
        return self.lines

    def _node(self, node: Node) -> None:
        assert node.op is not None
        if node.op.keeps:
            self._cached(node)
            return
        if node.name in self.routers:  # which is told its operands
            self._settle(self.graph.operands(node)[0])
        if len(self.kernels(node)) > 1:
            self._branches(node)
            return
        folded = self._expression(node)
        if self._folds(node):
            while len(folded.code.text) > FOLDED and self._settle_longest(node):
                folded = self._expression(node)
            self._code[node.results[0]] = folded
            return
        while self._too_long(node, folded) and self._settle_longest(node):
            folded = self._expression(node)
        self._statement(node, folded)

    def _expression(
        self, node: Node, kernel: Kernel | None = None, phases: tuple[str, ...] = ()
    ) -> Folded:
        """What gives a node's results, by its one kernel or by this one of several."""
        assert node.op is not None
        operands = [self._code[v] for v in self.graph.operands(node)]
        op = node.op.at(self.which)
        codes = (o.code for o in operands)
        kernel = kernel or self.kernels(node)[0][1]
        phases = phases or self.phases
        code = kernel.call(op, *codes, phases=phases, **self.contexts.given(node, kernel, phases))
        if op.stateful and not op.keeps:
            code = code.handed_to("cache.append", op.written)
        return Folded(code, tuple(leaf for o in operands for leaf in o.leaves))

    def _branches(self, node: Node) -> None:
        """A statement for each of a node's kernels, where its phases have unlike ones."""
        while self._settle_longest(node):
            pass
        self._heading(node)
        codes = [
            (test, self._expression(node, kernel, phases).code)
            for test, phases, kernel in branches(self.kernels(node), self.condition)
        ]
        self._consume(self._expression(node))
        targets = [self._bind(v) for v in node.results]
        for i, (test, code) in enumerate(codes):
            last = i == len(codes) - 1
            line = "else:" if last else f"{'elif' if i else 'if'} {test}:"
            self.lines.append(f"{' ' * self.indent}{line}")
            self.lines += statement(f"{', '.join(targets)} = {code.text}", self.indent + 4)
        self._guarded = False
        self._trace(tuple(zip(targets, node.results, strict=True)), self.indent)

    def _folds(self, node: Node) -> bool:
        """Whether a node has no line of its own: nobody named it, and one op reads it."""
        (first, *others) = node.results
        if others or node.op is None or self._needs[first] != 1:
            return False
        return node.anonymous or first in self.graph.outputs

    def _too_long(self, node: Node, folded: Folded) -> bool:
        targets = ", ".join(v.name for v in node.results)
        return self.indent + len(f"{targets} = {folded.code.text}") > WIDTH

    def _settle_longest(self, node: Node) -> bool:
        """Give the longest folded operand of a node a line of its own; False if there is none."""
        pending = [v for v in self.graph.operands(node) if self._is_folded(v)]
        if pending:
            self._settle(max(pending, key=lambda v: len(self._code[v].code.text)))
        return bool(pending)

    def _settle(self, value: Value) -> None:
        """Give a folded value a line of its own."""
        if self._is_folded(value):
            self._statement(self.graph.node(value), self._code[value])

    def _is_folded(self, value: Value) -> bool:
        folded = self._code.get(value)
        return folded is not None and folded.leaves != (value,)

    def _statement(self, node: Node, folded: Folded) -> None:
        """`targets = expression`, under a heading where the part of the spec changes."""
        self._heading(node)
        self._consume(folded)
        targets = [self._bind(v) for v in node.results]
        text = f"{', '.join(targets)} = {folded.code.text}"
        self._append(
            text, self._shape_comment(node), tuple(zip(targets, node.results, strict=True))
        )

    def _cached(self, node: Node) -> None:
        """Write to a cache and read the context, but in training, where there is none."""
        (value,) = node.results
        source = self.graph.operands(node)[0]
        self._settle(source)
        held = self._code[source]
        if self.phases == ("train",):
            self._code[value] = held
            self._needs[source] += self._needs[value] - 1
            return
        folded = self._expression(node)
        self._heading(node)
        self._consume(Folded(folded.code, self.graph.operands(node)))
        write, shape = folded.code.text, _shape(value.type, self.which)
        where = f"[{self.contexts.shape(node, shape)}]"
        target = self._bind(value)
        if "train" not in self.phases:
            self._append(f"{target} = {write}", where, ((target, value),))
        elif target == held.code.text:
            if not self._guarded:
                self.lines.append(f"{' ' * self.indent}if cache is not None:")
            self._append(f"{target} = {write}", where, ((target, value),), guarded=True)
        else:
            text = f"{target} = {held.code.text} if cache is None else {write}"
            self._append(text, where, ((target, value),))

    def _return(self) -> None:
        """Return the outputs, folding into the line what only it reads."""
        for target, value in zip(self.targets, self.graph.outputs, strict=False):
            folded = self._code[value]
            if folded.code.text != target:
                self._heading(self.graph.node(value))
                self._append(f"{target} = {folded.code.text}", "", ((target, value),))
        if self.targets:
            return
        while self._return_is_long() and self._settle_output():
            pass
        codes = [self._code[v].code for v in self.graph.outputs]
        result = codes[0] if len(codes) == 1 else tuple_of(*codes)
        text = result.text if len(codes) == 1 else result.text[1:-1]
        self.lines += statement(f"return {text}", self.indent)

    def _return_is_long(self) -> bool:
        texts = [self._code[v].code.text for v in self.graph.outputs]
        return self.indent + len(f"return {', '.join(texts)}") > WIDTH

    def _settle_output(self) -> bool:
        pending = [v for v in self.graph.outputs if self._is_folded(v)]
        if pending:
            self._settle(max(pending, key=lambda v: len(self._code[v].code.text)))
        return bool(pending)

    def _heading(self, node: Node) -> None:
        if node.scope and node.scope != self._scope:
            if self.lines:
                self.lines.append("")
            self.lines.append(f"{' ' * self.indent}# {words(node.scope)}")
            self._guarded = False
        self._scope = node.scope or self._scope

    def _append(
        self,
        text: str,
        comment: str,
        values: tuple[tuple[str, Value], ...],
        guarded: bool = False,
    ) -> None:
        self.lines += statement(text, self.indent + 4 * guarded, comment)
        self._guarded = guarded
        self._trace(values, self.indent + 4 * guarded)

    def _trace(self, values: tuple[tuple[str, Value], ...], indent: int) -> None:
        for variable, value in values if self.trace else ():
            if variable != "_":
                told = call("trace", self.block, value.name, name(variable))
                self.lines += statement(told.text, indent)

    def _consume(self, folded: Folded) -> None:
        self._needs.subtract(folded.leaves)

    def _bind(self, value: Value) -> str:
        """The variable of a value: its name without a number, where that is free by now."""
        if self._needs[value] == 0:
            return "_"
        for variable in self._choices(value):
            holder = self._bound.get(variable)
            if variable in self.reserved or (holder is not None and self._needs[holder] > 0):
                continue
            self._bound[variable] = value
            self._code[value] = Folded(name(variable), (value,))
            return variable
        raise AssertionError(f"no variable is free for %{value.name}")

    def _choices(self, value: Value) -> Iterator[str]:
        """What a value may be called; one that nobody named is called after its part."""
        node = self.graph.node(value)
        if node.anonymous and node.scope:
            yield node.scope
        yield from (_stem(value.name), value.name, f"{value.name}_")

    def _shape_comment(self, node: Node) -> str:
        """The shape of a result, where it is not that of what it is made from."""
        if len(node.results) != 1:
            return ""
        (value,) = node.results
        operands = self.graph.operands(node)
        if operands and operands[0].type.shape == value.type.shape:
            return ""
        return f"[{_shape(value.type, self.which)}]"


def _stem(value: str) -> str:
    return re.sub(r"_\d+$", "", value)


def _shape(type: TensorType, which: Which) -> str:
    return ", ".join(str(a.at(which)) if isinstance(a, Dim) else a for a in type.shape)
