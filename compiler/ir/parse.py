"""The reader of the text form that `text.py` writes."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import GraphError
from .dims import Dim
from .graph import Graph, Value
from .model import Block, Model, Param
from .op import Op
from .types import TensorType
from .weights import Concat, Each, Flatten, Program, Ref, Slice, Stack, Transpose, Unflatten

_LINES = ("model", "droppable", "schedule", "block", "param", "cache", "unused", "graph", "return")

_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<value>%[a-z_][a-z0-9_]*)'
    r"|(?P<number>-?(?:inf|nan|\d+(?:\.\d*)?(?:e[-+]?\d+)?)(?:~\d+)?(?![A-Za-z_]))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)|(?P<mark>[()\[\],=*:]))"
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
        elif head in (
            "model",
            "droppable",
            "schedule",
            "block",
            "param",
            "cache",
            "unused",
            "graph",
            "return",
        ):
            getattr(self, f"_{head}")(_Tokens(rest))
        elif head.startswith("%"):
            self._node(_Tokens(line))
        else:
            raise GraphError(
                f"no line starts with {head!r}; one starts with {', '.join(_LINES)} or %"
            )

    def _model(self, tokens: _Tokens) -> None:
        self.model.name = tokens.string()
        tokens.take(":")
        self.model.dtype = tokens.word()

    def _droppable(self, tokens: _Tokens) -> None:
        self.model.droppable = (*self.model.droppable, tokens.string())

    def _schedule(self, tokens: _Tokens) -> None:
        runs = []
        while True:
            name = tokens.word()
            count = int(tokens.number()) if tokens.skip("*") else 1
            runs.append((name, count))
            if not tokens.skip(","):
                break
        self.model.schedule = tuple(runs)

    def _block(self, tokens: _Tokens) -> None:
        self.block, self.graph = Block(tokens.word()), None
        self.model.blocks[self.block.name] = self.block

    def _param(self, tokens: _Tokens) -> None:
        name = tokens.value()
        tokens.take("=")
        program = tokens.program()
        tokens.take(":")
        self._open_block().params[name] = Param(program, tokens.type().dtype)

    def _cache(self, tokens: _Tokens) -> None:
        name = tokens.word()
        tokens.take(":")
        self._open_block().caches[name] = tokens.type()

    def _unused(self, tokens: _Tokens) -> None:
        block = self._open_block()
        block.unused = (*block.unused, tokens.string())

    def _graph(self, tokens: _Tokens) -> None:
        phases = [tokens.word()]
        while tokens.skip(","):
            phases.append(tokens.word())
        self.graph = Graph()
        self._open_block().graphs[tuple(phases)] = self.graph

    def _return(self, tokens: _Tokens) -> None:
        graph = self._open_graph()
        names = [tokens.value()]
        while tokens.skip(","):
            names.append(tokens.value())
        graph.outputs = tuple(self._value(name) for name in names)
        self.graph = None

    def _node(self, tokens: _Tokens) -> None:
        graph = self._open_graph()
        names = [tokens.value()]
        while tokens.skip(","):
            names.append(tokens.value())
        tokens.take("=")
        kind = tokens.word()
        if kind == "input":
            tokens.take(":")
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

    def _arguments(self, tokens: _Tokens, op: type[Op]) -> tuple[list[Value], dict[str, Any]]:
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
                attributes[name] = tokens.attribute("Dim" in str(hints[name]))
            tokens.skip(",")
        missing = [f.name for f in fields(op) if _required(f) and f.name not in attributes]
        if missing:
            raise GraphError(f"{op.name} needs {', '.join(missing)}")
        return operands, attributes

    def _value(self, name: str) -> Value:
        graph, block = self._open_graph(), self._open_block()
        if name in block.params:
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


@dataclass
class _Tokens:
    """The tokens of one line, taken from the left."""

    text: str
    at: int = 0

    def _peek(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.at)

    @property
    def kind(self) -> str:
        match = self._peek()
        return str(match.lastgroup) if match else ""

    def _next(self, kind: str, what: str) -> str:
        match = self._peek()
        if match is None or match.lastgroup != kind:
            raise GraphError(f"expected {what} at {self.text[self.at :].strip()[:40]!r}")
        self.at = match.end()
        return match[kind]

    def word(self) -> str:
        return self._next("word", "a word")

    def value(self) -> str:
        return self._next("value", "a value such as %x")[1:]

    def number(self) -> str:
        return self._next("number", "a number")

    def string(self) -> str:
        return str(json.loads(self._next("string", "a string in quotes")))

    def take(self, mark: str) -> None:
        if not self.skip(mark):
            raise GraphError(f"expected {mark!r} at {self.text[self.at :].strip()[:40]!r}")

    def skip(self, mark: str) -> bool:
        match = self._peek()
        if match is None or match["mark"] != mark:
            return False
        self.at = match.end()
        return True

    def type(self) -> TensorType:
        end = self.text.find("]", self.at) + 1
        type = TensorType.parse(self.text[self.at : end or None])
        self.at = end
        return type

    def dim(self) -> Dim:
        return Dim.parse(self.number())

    def tuple_of(self, item: typing.Callable[[], Any], close: str = ")") -> tuple[Any, ...]:
        self.take("(" if close == ")" else "[")
        items = []
        while not self.skip(close):
            items.append(item())
            self.skip(",")
        return tuple(items)

    def attribute(self, dims: bool) -> Any:
        """One attribute; whole numbers are Dims where the op's field holds Dims."""
        if self.kind == "string":
            return self.string()
        if self.kind == "word":
            word = self.word()
            if word not in ("true", "false", "null"):
                raise GraphError(f"{word!r} is no attribute; strings stand in quotes")
            return json.loads(word)
        if self.kind == "mark":
            return self.tuple_of(lambda: self.attribute(dims))
        number = self.number()
        if re.fullmatch(r"-?\d+", number) or "~" in number:
            return Dim.parse(number) if dims else int(number)
        return float(number)

    def program(self) -> Program:
        kind = self.word()
        if kind not in _PROGRAMS:
            raise GraphError(f"there is no weight program {kind}; there are {', '.join(_PROGRAMS)}")
        self.take("(")
        program = _PROGRAMS[kind](self)
        self.take(")")
        return program

    def then(self, item: typing.Callable[[], Any]) -> Any:
        self.take(",")
        return item()

    def integer(self) -> int:
        return int(self.number())


_PROGRAMS: dict[str, typing.Callable[[_Tokens], Program]] = {
    "ref": lambda t: Ref(t.string(), t.then(lambda: t.tuple_of(t.dim))),
    "each": lambda t: Each(t.program(), t.then(t.word), t.then(t.dim)),
    "stack": lambda t: Stack(t.program(), t.then(t.word), t.then(t.dim)),
    "concat": lambda t: Concat(t.tuple_of(t.program, "]"), t.then(t.integer)),
    "slice": lambda t: Slice(t.program(), t.then(t.integer), t.then(t.dim), t.then(t.dim)),
    "unflatten": lambda t: Unflatten(
        t.program(), t.then(t.integer), t.then(lambda: t.tuple_of(t.dim))
    ),
    "flatten": lambda t: Flatten(t.program(), t.then(t.integer)),
    "transpose": lambda t: Transpose(t.program(), t.then(lambda: t.tuple_of(t.integer))),
}


def _required(field: Any) -> bool:
    return bool(field.default is dataclasses.MISSING)
