"""The reader of the text form that `text.py` writes."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import GraphError
from .graph import Graph, Value
from .model import PHASES, Block, Model, Param
from .op import Op
from .tokens import Tokens, fits, required
from .types import FLOATS

_LINES = (
    "model",
    "droppable",
    "schedule",
    "draft",
    "block",
    "param",
    "cache",
    "unused",
    "graph",
    "return",
)


def parse_model(text: str, ops: Mapping[str, type[Op]]) -> Model:
    """Read a model; raises `GraphError` with the line of the first mistake.

    A text that starts with `block` is a model of that one block, which is run once.
    """
    model = Model("block", "float32")
    reader = _Reader(model, ops)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.line(line.strip())
        except GraphError as error:
            raise GraphError(f"line {number}: {error}") from None
        except RecursionError:
            raise GraphError(f"line {number}: is nested too deep") from None
    if not model.blocks:
        raise GraphError("holds no block")
    if not model.schedule:
        model.schedule = tuple((name, 1) for name in model.blocks)
    return model


class _Reader:
    def __init__(self, model: Model, ops: Mapping[str, type[Op]]) -> None:
        self.model, self.ops = model, ops
        self.block: Block | None = None
        self.graph: Graph | None = None

    def line(self, line: str) -> None:
        head, _, rest = line.partition(" ")
        if not line:
            return
        if head == "#":
            if self.graph is not None:
                self.graph.scope = rest.strip()
        elif head in _LINES:
            tokens = Tokens(rest)
            getattr(self, f"_{head}")(tokens)
            tokens.end()
        elif head.startswith("%"):
            tokens = Tokens(line)
            self._node(tokens)
            tokens.end()
        else:
            raise GraphError(
                f"no line starts with {head!r}; one starts with {', '.join(_LINES)} or %"
            )

    def _model(self, tokens: Tokens) -> None:
        self.model.name = tokens.string()
        tokens.take(":")
        self.model.dtype = tokens.word()
        if self.model.dtype not in FLOATS:
            raise GraphError(f"a model is {', '.join(FLOATS)}, not {self.model.dtype}")

    def _droppable(self, tokens: Tokens) -> None:
        self.model.droppable = (*self.model.droppable, tokens.string())

    def _schedule(self, tokens: Tokens) -> None:
        runs = []
        while True:
            name = tokens.word()
            count = tokens.integer() if tokens.skip("*") else 1
            if count < 1:
                raise GraphError(f"{name} is to run {count} times")
            runs.append((name, count))
            if not tokens.skip(","):
                break
        self.model.schedule = tuple(runs)

    def _draft(self, tokens: Tokens) -> None:
        names = [tokens.word()]
        while tokens.skip(","):
            names.append(tokens.word())
        self.model.draft = tuple(names)

    def _block(self, tokens: Tokens) -> None:
        self.block, self.graph = Block(tokens.word()), None
        if self.block.name in self.model.blocks:
            raise GraphError(f"block {self.block.name} is there twice")
        self.model.blocks[self.block.name] = self.block

    def _param(self, tokens: Tokens) -> None:
        name = tokens.value()
        tokens.take("=")
        program = tokens.program()
        tokens.take(":")
        type, params = tokens.type(), self._open_block().params
        if name in params:
            raise GraphError(f"%{name} is there twice")
        params[name] = Param(program, type.dtype)
        if params[name].type != type:
            raise GraphError(f"%{name} is {type}, its program {params[name].type}")

    def _cache(self, tokens: Tokens) -> None:
        name = tokens.word()
        tokens.take(":")
        caches = self._open_block().caches
        if name in caches:
            raise GraphError(f"cache {name} is there twice")
        caches[name] = tokens.type()

    def _unused(self, tokens: Tokens) -> None:
        block = self._open_block()
        block.unused = (*block.unused, tokens.string())

    def _graph(self, tokens: Tokens) -> None:
        phases = [tokens.word()]
        while tokens.skip(","):
            phases.append(tokens.word())
        graphs = self._open_block().graphs
        known = [phase for group in graphs for phase in group]
        for phase in phases:
            if phase not in PHASES or phase in known or phases.count(phase) > 1:
                raise GraphError(f"{phase} is no phase that is left of {', '.join(PHASES)}")
        self.graph = graphs[tuple(phases)] = Graph()

    def _return(self, tokens: Tokens) -> None:
        graph = self._open_graph()
        names = [tokens.value()]
        while tokens.skip(","):
            names.append(tokens.value())
        graph.outputs = tuple(self._value(name) for name in names)
        self.graph = None

    def _node(self, tokens: Tokens) -> None:
        graph = self._open_graph()
        names = [tokens.value()]
        while tokens.skip(","):
            names.append(tokens.value())
        tokens.take("=")
        kind = tokens.word()
        if kind == "input":
            tokens.take(":")
            if len(names) > 1:
                raise GraphError("an input is one value")
            graph.input(names[0], tokens.type())
            return
        if kind not in self.ops:
            raise GraphError(f"there is no op {kind}")
        operands, attributes = self._arguments(tokens, self.ops[kind])
        results = graph.add(self.ops[kind](**attributes), *operands, names=names)
        tokens.take(":")
        for result, name in zip(results, names, strict=True):
            type = tokens.type()
            tokens.skip(",")
            if result != Value(name, type):
                raise GraphError(
                    f"%{name} is {type}, but {kind} gives %{result.name} {result.type}"
                )

    def _arguments(self, tokens: Tokens, op: type[Op]) -> tuple[list[Value], dict[str, Any]]:
        hints = typing.get_type_hints(op)
        operands: list[Value] = []
        attributes: dict[str, Any] = {}
        tokens.take("(")
        while not tokens.skip(")"):
            if tokens.kind == "value":
                operands.append(self._value(tokens.value()))
            else:
                name = tokens.word()
                if name not in {f.name for f in fields(op)}:
                    raise GraphError(f"{op.name} has no attribute {name}")
                tokens.take("=")
                value = tokens.attribute("Dim" in str(hints[name]))
                if not fits(value, hints[name]):
                    raise GraphError(f"{name} of {op.name} cannot be {value}")
                attributes[name] = value
            tokens.skip(",")
        missing = [f.name for f in fields(op) if required(f) and f.name not in attributes]
        if missing:
            raise GraphError(f"{op.name} needs {', '.join(missing)}")
        return operands, attributes

    def _value(self, name: str) -> Value:
        graph, block = self._open_graph(), self._open_block()
        if name in block.params and not graph.defines(name):
            return graph.param(name, block.params[name].type)
        return graph.value(name)

    def _open_block(self) -> Block:
        if self.block is None:
            raise GraphError("stands in no block")
        return self.block

    def _open_graph(self) -> Graph:
        if self.graph is None:
            raise GraphError("stands in no graph")
        return self.graph
