"""The Rewriter: what a pass may do to one graph of a block, and what it may see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import GraphError
from ..ir.build import Build, append
from ..ir.graph import Graph, Node, Value
from ..ir.model import Block, Model, Param, is_layer
from ..ir.op import Op
from ..ir.types import TensorType
from ..ir.weights import Program


@dataclass(frozen=True)
class Refusal:
    """Why a pass left a candidate alone."""

    block: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.block}/%{self.node}: {self.reason}"


@dataclass(frozen=True)
class Remark:
    """What an application of a pass gained, and what it costs, in words."""

    block: str
    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.block}/%{self.node}: {self.text}"


@dataclass
class Rewriter:
    """One graph of a block, open to a pass; `phase` names the phases that share the graph."""

    block: Block
    phases: tuple[str, ...]
    ops: Mapping[str, type[Op]]
    target: Any = None
    refusals: list[Refusal] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    at: str = ""
    """The node that was matched or touched last; an error names it."""
    elsewhere: frozenset[str] = frozenset()
    """The tensors that other blocks read as well, such as an embedding that is the head too."""
    _renames: dict[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph, to be read; change it through this class."""
        return self.block.graphs[self.phases]

    @property
    def phase(self) -> str:
        return self.phases[0]

    def trial(self) -> Rewriter:
        """The same of a copy of the block: what is done there changes nothing here."""
        block = self.block.copy()
        return replace(self, block=block, refusals=[], remarks=[], _renames=dict(self._renames))

    @property
    def op(self) -> Build:
        """Ops by name: `rewriter.op.add(x, y)` appends one."""
        return Build(self.graph, self.ops)

    def add(self, op: Op, *operands: Value, name: str | Sequence[str] = ()) -> Any:
        """Append an op; returns its result, or its results where it has several."""
        return append(self.graph, op, *operands, name=name)

    def beside(self, value: Value) -> None:
        """Let what is added from here on belong to the part of the spec that a value comes from."""
        self.graph.scope = self.graph.node(value).scope

    def program(self, value: Value) -> Program:
        """The weight program of a parameter; raises `GraphError` for any other value."""
        if value.name not in self.block.params:
            raise GraphError(f"%{value.name} is no parameter")
        return self.block.params[value.name].program

    def is_param(self, value: Value) -> bool:
        return value.name in self.block.params

    def param(self, name: str, program: Program, dtype: str | None = None) -> Value:
        """A parameter of the block, by default of the dtype of what the program is made of.

        One that is the same already, perhaps of another phase, is used. Where another parameter
        has that name, this one takes it over once the other is gone.
        """
        param = Param(program, dtype or self._dtype(program))
        actual = next((known for known, p in self.block.params.items() if p == param), name)
        values = self._values()
        while self.block.params.get(actual, param) != param or (
            actual not in self.block.params and actual in values
        ):
            actual = self.graph.fresh(f"{actual}_2", {*self.block.params, *values})
        if actual != name:
            self._renames[actual] = name
        self.block.params[actual] = param
        return self.graph.param(actual, param.type)

    def cache(self, name: str, rows: TensorType) -> None:
        """Declare a cache of rows [B, S, ...]; one that no phase writes any more is dropped."""
        if self.block.caches.setdefault(name, rows) != rows:
            raise GraphError(f"cache {name} holds {self.block.caches[name]}, not {rows}")

    def replace(self, old: Value | Sequence[Value], new: Value | Sequence[Value]) -> None:
        """Put `new` values in place of `old` ones, and drop what nothing reads any more."""
        first = self.graph.node(old if isinstance(old, Value) else old[0])
        self.at = first.name
        self.graph.scope = first.scope
        self.graph.replace(_values(old), _values(new))

    def input(self, name: str, type: TensorType) -> Value:
        """One more value that the block takes, after those it takes already."""
        return self.graph.input(name, type)

    def returns(self, *values: Value) -> None:
        """Let the block return these values, and drop what nothing reads any more."""
        self.at = self.graph.node(values[0]).name if values else self.at
        before = self.graph.ancestors(self.graph.outputs)
        self.graph.outputs = values
        self.graph.prune(before)

    def prune(self) -> list[str]:
        """Drop what no output needs; weights that only it read are declared to be unused."""
        dropped = self.graph.prune()
        read = {value.name for graph in self.block.graphs.values() for value in graph.params}
        for name in dropped:
            if name in self.block.params and name not in read:
                refs = (ref.name for ref in self.block.params[name].program.refs())
                self.block.unused = tuple(dict.fromkeys((*self.block.unused, *refs)))
        return dropped

    def refuse(self, node: Node | str, reason: str) -> None:
        self.at = node if isinstance(node, str) else node.name
        if self.graph.get(self.at) is None and self.at not in self._values():
            raise GraphError(f"refuses %{self.at}, which is no node of {self.block.name}")
        if not isinstance(reason, str) or not reason.strip():
            raise GraphError(f"refuses %{self.at} for the reason {reason!r}; say why in words")
        self.refusals.append(Refusal(self.block.name, self.at, reason))

    def remark(self, node: Node | str, text: str) -> None:
        """Say of a change what it gains and costs; `explain` shows it."""
        self.at = node if isinstance(node, str) else node.name
        self.remarks.append(Remark(self.block.name, self.at, text))

    def commit(self) -> None:
        """Settle the block after a pass: unread parameters and caches go, names are taken over."""
        self.block.drop_unread()
        written = {
            cache
            for graph in self.block.graphs.values()
            for node in graph.nodes()
            for cache in (node.op.written if node.op is not None else ())
        }
        self.block.caches = {n: rows for n, rows in self.block.caches.items() if n in written}
        for actual, name in self._renames.items():
            if name not in self.block.params and actual in self.block.params:
                self._rename_param(actual, name)
        self._renames.clear()

    def _values(self) -> set[str]:
        """The names of all values of the block, of parameters and others."""
        graphs = self.block.graphs.values()
        return {value.name for g in graphs for node in g.nodes() for value in node.results}

    def _rename_param(self, old: str, new: str) -> None:
        if new in self._values():
            return
        self.block.params = {new if n == old else n: p for n, p in self.block.params.items()}
        for graph in self.block.graphs.values():
            if any(value.name == old for value in graph.params):
                graph.rename(old, new)

    def _dtype(self, program: Program) -> str:
        """The dtype of the parameters that hold the same tensors."""
        names = {ref.name for ref in program.refs()}
        for param in self.block.params.values():
            if names & {ref.name for ref in param.program.refs()}:
                return param.dtype
        raise GraphError(f"no parameter holds {', '.join(sorted(names))}; give its dtype")


@dataclass
class ModelRewriter:
    """All graphs of a model, open to a pass that changes what flows between blocks."""

    model: Model
    ops: Mapping[str, type[Op]]
    target: Any = None
    refusals: list[Refusal] = field(default_factory=list)
    last: Rewriter | None = None
    """The one that was handed out last."""

    def layers(self) -> Iterator[Rewriter]:
        """A Rewriter for each graph of the blocks that are layers."""
        for name in self.model.blocks:
            if is_layer(name):
                yield from self.of(name)

    def of(self, block: str) -> Iterator[Rewriter]:
        inside = self.model.blocks[block]
        for phases in inside.graphs:
            self.last = Rewriter(inside, phases, self.ops, self.target, self.refusals)
            yield self.last

    def commit(self) -> None:
        for name in self.model.blocks:
            for rewriter in self.of(name):
                rewriter.commit()


def _values(values: Value | Sequence[Value]) -> Sequence[Value]:
    return (values,) if isinstance(values, Value) else values
