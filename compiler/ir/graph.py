"""The graph of one block: ops, parameters and inputs as nodes of a networkx multigraph."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import networkx as nx

from ..errors import GraphError
from .op import Op
from .types import TensorType

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Value:
    """One typed value; its name is unique in its graph and becomes the emitted variable."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Node:
    """What defines one or more values: an op, an input or a parameter (`op` is None for both)."""

    kind: str  # "op" | "input" | "param"
    results: tuple[Value, ...]
    op: Op | None = None
    scope: str = ""
    """The part of the spec it comes from, which heads its lines in emitted code."""

    @property
    def name(self) -> str:
        return self.results[0].name

    @property
    def anonymous(self) -> bool:
        """Whether nobody named its result, which is then called after the op."""
        return self.op is not None and re.sub(r"_\d+$", "", self.name) == self.op.name


class Graph:
    """A dataflow graph in which every value is defined once; the only user of networkx."""

    def __init__(self) -> None:
        self.outputs: tuple[Value, ...] = ()
        self.scope = ""
        self._nx: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self._shared = False  # with a copy: who changes it first takes one of its own
        self._defined: list[str] = []  # the nodes, in the order that is kept where it can be
        self._producer: dict[str, tuple[str, int]] = {}  # value name -> node, index
        # Asked for far more often than the graph is changed, which empties all three.
        self._order: tuple[str, ...] = ()
        self._operands: dict[str, tuple[Value, ...]] = {}
        self._made: dict[Any, Any] = {}

    # Building

    def input(self, name: str, type: TensorType) -> Value:
        return self._define(Node("input", (Value(name, type),)), ())[0]

    def param(self, name: str, type: TensorType) -> Value:
        """The parameter `name` of the block; asked for twice, it is one node."""
        if name in self._producer:
            value = self.value(name)
            if self.node(value).kind != "param" or value.type != type:
                raise GraphError(f"{name} is already {self.node(value).kind} {value.type}")
            return value
        return self._define(Node("param", (Value(name, type),)), ())[0]

    def add(self, op: Op, *operands: Value, names: Sequence[str] = ()) -> tuple[Value, ...]:
        """Append an op; its results are called `names`, or after the op."""
        types = op.types(*(v.type for v in operands))
        stems = names or (op.name,) * len(types)
        if len(stems) != len(types):
            raise GraphError(f"{op.name} has {len(types)} results, but {len(stems)} names")
        taken: set[str] = set()
        results = []
        for stem, type in zip(stems, types, strict=True):
            name = self.fresh(stem, taken)
            taken.add(name)
            results.append(Value(name, type))
        return self._define(Node("op", tuple(results), op, self.scope), operands)

    def fresh(self, stem: str, taken: Iterable[str] = ()) -> str:
        """`stem`, or `stem_2`, `stem_3`, ... where it is taken."""
        if stem not in self._producer and stem not in taken:
            return stem
        count = len(self._producer) + len(list(taken)) + 2
        names = (f"{stem}_{i}" for i in range(2, count + 1))
        return next(n for n in names if n not in self._producer and n not in taken)

    def copy(self) -> Graph:
        other = Graph()
        other.outputs, other.scope = self.outputs, self.scope
        other._nx, other._producer = self._nx, dict(self._producer)
        other._defined = list(self._defined)
        self._shared = other._shared = True
        other._order, other._operands = self._order, dict(self._operands)
        other._made = dict(self._made)
        return other

    # Reading

    def __contains__(self, value: Value) -> bool:
        return value.name in self._producer and self.value(value.name) == value

    def defines(self, name: str) -> bool:
        return name in self._producer

    def value(self, name: str) -> Value:
        if name not in self._producer:
            raise GraphError(f"there is no value %{name}")
        node, index = self._producer[name]
        return self._node(node).results[index]

    def get(self, node: str) -> Node | None:
        """The node of that name, if the graph still has it."""
        return self._node(node) if node in self._nx else None

    def node(self, value: Value | str) -> Node:
        """The node that defines a value."""
        return self._node(self._producer[value if isinstance(value, str) else value.name][0])

    def operands(self, node: Node) -> tuple[Value, ...]:
        if node.name not in self._operands:
            edges = sorted(self._nx.in_edges(node.name, data=True), key=lambda e: e[2]["slot"])
            results = (self._node(source).results[data["index"]] for source, _, data in edges)
            self._operands[node.name] = tuple(results)
        return self._operands[node.name]

    def users(self, value: Value) -> list[Node]:
        """The nodes that read a value, each once."""
        source, index = self._producer[value.name]
        edges = self._nx.out_edges(source, data=True)
        names = dict.fromkeys(user for _, user, data in edges if data["index"] == index)
        return [self._node(name) for name in names]

    def nodes(self) -> Iterator[Node]:
        """All nodes in topological order; among the ready ones, the first defined comes first."""
        if not self._order:
            rank = {name: i for i, name in enumerate(self._defined)}
            order = nx.lexicographical_topological_sort(self._nx, key=rank.__getitem__)
            self._order = tuple(order)
        yield from [self._node(name) for name in self._order]

    def ancestors(self, values: Iterable[Value]) -> set[str]:
        """The names of the nodes that these values are computed from, their own included."""
        found: set[str] = set()
        for value in values:
            node = self._producer[value.name][0]
            found |= {node, *nx.ancestors(self._nx, node)}
        return found

    def once(self, make: Callable[[Graph], _T]) -> _T:
        """What `make` makes of the graph; it is asked again only when the graph has changed."""
        key = make, self.outputs
        if key not in self._made:
            self._made[key] = make(self)
        made: _T = self._made[key]
        return made

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(n.results[0] for n in map(self._node, self._defined) if n.kind == "input")

    @property
    def params(self) -> tuple[Value, ...]:
        return tuple(n.results[0] for n in map(self._node, self._defined) if n.kind == "param")

    # Rewriting

    def replace(self, old: Sequence[Value], new: Sequence[Value]) -> None:
        """Point every use of each old value at the new one, but for uses that `new` comes from.

        A new value of another type is an error. What nothing reads any more is dropped, but not
        what nothing ever read; a new value takes the name of the old one that is gone, if somebody
        had named that.
        """
        named = [not self.node(value).anonymous for value in dict.fromkeys(old)]
        keep, made = self.ancestors(new), self.ancestors(old)
        for before, after in zip(old, new, strict=True):
            if before.type != after.type:
                raise GraphError(f"%{before.name} is {before.type}, its replacement {after.type}")
        self._own()
        for before, after in zip(old, new, strict=True):
            source, index = self._producer[before.name]
            target, target_index = self._producer[after.name]
            for _, user, key, data in list(self._nx.out_edges(source, keys=True, data=True)):
                if data["index"] == index and user not in keep:
                    self._nx.remove_edge(source, user, key)
                    self._nx.add_edge(target, user, index=target_index, slot=data["slot"])
        self._changed()
        self._move_before(old[0], keep)
        swap = dict(zip(old, new, strict=True))
        self.outputs = tuple(swap.get(v, v) for v in self.outputs)
        self.prune(made - keep)
        for (before, after), own_name in zip(swap.items(), named, strict=True):
            gone = own_name and before.name not in self._producer and after.name in self._producer
            if gone and self.node(after).kind == "op":  # a parameter's name is the block's
                self.rename(after.name, before.name)

    def prune(self, among: Collection[str] | None = None) -> list[str]:
        """Drop the ops and parameters that nothing needs; return the values dropped.

        With `among`, only nodes of those names, as far as no other node reads them.
        """
        returned = {self._producer[value.name][0] for value in self.outputs}
        dead = set[str]()
        for node in reversed(list(self.nodes())):
            may = node.kind != "input" and (among is None or node.name in among)
            read = any(user not in dead for user in self._nx.successors(node.name))
            if may and not read and node.name not in returned:
                dead.add(node.name)
        if not dead:
            return []
        order = [name for name in self._defined if name in dead]
        dropped = [value.name for name in order for value in self._node(name).results]
        self._own()
        self._nx.remove_nodes_from(dead)
        self._defined = [name for name in self._defined if name not in dead]
        self._changed()
        for name in dropped:
            del self._producer[name]
        return dropped

    def rename(self, old: str, new: str) -> None:
        if new in self._producer:
            raise GraphError(f"%{new} is already defined")
        if not _NAME.fullmatch(new):
            raise GraphError(f"{new!r} is no name of a value")
        self._own()
        key, index = self._producer.pop(old)
        node = self._node(key)
        value = replace(node.results[index], name=new)
        results = (*node.results[:index], value, *node.results[index + 1 :])
        self._producer[new] = (key, index)
        self._nx.nodes[key]["node"] = replace(node, results=results)
        self._changed()
        self.outputs = tuple(value if v.name == old else v for v in self.outputs)
        if index == 0:  # the node's key is its first result's name
            nx.relabel_nodes(self._nx, {key: new}, copy=False)
            self._defined[self._defined.index(key)] = new
            for i, result in enumerate(results):
                self._producer[result.name] = (new, i)

    def _define(self, node: Node, operands: Sequence[Value]) -> tuple[Value, ...]:
        for value in node.results:
            if value.name in self._producer:
                raise GraphError(f"%{value.name} is defined twice")
            if not _NAME.fullmatch(value.name):
                raise GraphError(f"{value.name!r} is no name of a value; use a-z, 0-9 and _")
        for operand in operands:
            if operand not in self:
                raise GraphError(f"%{operand.name} is no value of this graph")
        self._own()
        self._nx.add_node(node.name, node=node)
        self._defined.append(node.name)
        for slot, operand in enumerate(operands):
            source, index = self._producer[operand.name]
            self._nx.add_edge(source, node.name, index=index, slot=slot)
        for index, value in enumerate(node.results):
            self._producer[value.name] = (node.name, index)
        self._changed()
        return node.results

    def _node(self, name: str) -> Node:
        node: Node = self._nx.nodes[name]["node"]
        return node

    def _move_before(self, value: Value, nodes: set[str]) -> None:
        """Order `nodes` that were defined later before the node of `value`."""
        order = self._defined
        at = order.index(self._producer[value.name][0])
        moved = [name for name in order[at:] if name in nodes]
        rest = [name for name in order[at:] if name not in nodes]
        self._defined = [*order[:at], *moved, *rest]
        self._changed()

    def _own(self) -> None:
        """Before a change: most copies are only read, and to copy takes networkx long."""
        if self._shared:
            self._nx, self._shared = self._nx.copy(), False

    def _changed(self) -> None:
        self._order, self._operands, self._made = (), {}, {}
