"""The class of one block: its parameters, its caches, and a method for each of its graphs."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.lines import print_call
from ..ir.model import EMBED, HEAD, PHASES, Block
from ..ir.reach import windows
from ..schedule.code import call, name, string, tuple_of
from .frame import Frame, definition, invariant_nodes
from .layout import docstring, statement
from .values import Name, Source


@dataclass(frozen=True)
class Method:
    """One function of a class: its signature and its lines."""

    name: Name
    signature: Source
    body: Source


@dataclass(frozen=True)
class Layer:
    """The class of one block."""

    block: str
    name: Name
    doc: Source
    rows: Source
    windows: Source
    parameters: Source
    methods: tuple[Method, ...]
    dispatch: Source
    tensors: Source
    """The first line of the function of `weights.py` that says which tensors the layer holds."""
    tensors_call: Source


@dataclass(frozen=True)
class LayerWriter:
    """Writes the class of one block within a frame."""

    frame: Frame
    block: Block

    def write(self) -> Layer:
        methods = []
        for phases, graph in self.block.graphs.items():
            method = "forward" if len(self.block.graphs) == 1 else f"_{phases[0]}"
            given = {v.name: name(v.name) for v in graph.inputs}
            keys = self.frame.shared
            for node in invariant_nodes(graph):
                assert node.op is not None
                key = print_call(node.op, graph.operands(node))
                for value, variable in zip(node.results, keys[key], strict=True):
                    given[value.name] = name(variable)
            writer = self.frame.writer(self.block, phases, graph, given, 8)
            body = Source(tuple(writer.write()))
            methods.append(Method(Name(method), self._signature(method, phases), body))
        title = self.frame.class_name(self.block.name)
        listing = name(f"{self.block.name}_tensors").text
        return Layer(
            self.block.name,
            Name(title),
            Source(docstring(self._describe(), 4)),
            self._rows(),
            self._windows(),
            Source(tuple(self.frame.parameters(self.block, self.block.params))),
            tuple(methods),
            self._dispatch(),
            Source(definition(listing, [f"layer: {title}", "i: int"], "Iterator[Held]", 0)),
            Source(tuple(statement(f"yield from {listing}(layer, i)", 12))),
        )

    def _signature(self, method: str, phases: tuple[str, ...]) -> Source:
        every = ["self", *(f"{variable}: Tensor" for variable in self.frame.layer_arguments)]
        if phases != ("train",):
            every.append(
                "cache: LayerCache | None = None" if "train" in phases else "cache: LayerCache"
            )
        return Source(definition(method, every, self.frame.stream_type.text))

    def _dispatch(self) -> Source:
        """Which method runs, for a block whose phases differ."""
        if len(self.block.graphs) == 1:
            return Source(())
        lines: list[str] = []
        *others, last = self.block.graphs
        for phases in others:
            lines.append(f"        if {self.frame.condition(phases)}:")
            lines += statement(f"return {self._passed_on(phases)}", 12)
        lines += statement(f"return {self._passed_on(last)}", 8)
        return Source((*self._signature("forward", PHASES).lines, *lines))

    def _passed_on(self, phases: tuple[str, ...]) -> str:
        cache = () if phases == ("train",) else ("cache",)
        return call(f"self._{phases[0]}", *map(name, (*self.frame.layer_arguments, *cache))).text

    def _describe(self) -> str:
        scopes: dict[str, None] = {}
        for graph in self.block.graphs.values():
            for node in graph.nodes():
                if node.scope:
                    scopes[node.scope.replace("_", " ").strip()] = None
        return f"{self._where()}: {', then '.join(scopes)}."

    def _where(self) -> str:
        places, start = [], 0
        for name_, count in self.frame.plan.model.schedule:
            if name_ in (EMBED, HEAD):
                continue
            if name_ == self.block.name:
                places.append((start, start + count - 1))
            start += count
        if len(places) == 1:
            first, last = places[0]
            return f"Layer {first}" if first == last else f"Layers {first} to {last}"
        return f"{sum(last - first + 1 for first, last in places)} of the {start} layers"

    def _rows(self) -> Source:
        rows = [
            f"{string(cache)}: {tuple_of(*(d.at(self.frame.which) for d in type.row)).text}"
            for cache, type in self.block.caches.items()
        ]
        text = f"rows: ClassVar[dict[str, tuple[int, ...]]] = {{{', '.join(rows)}}}"
        return Source(tuple(statement(text, 4)))

    def _windows(self) -> Source:
        kept = [
            f"{string(c)}: {dim.at(self.frame.which)}" for c, dim in windows(self.block).items()
        ]
        text = f"windows: ClassVar[dict[str, int]] = {{{', '.join(kept)}}}"
        return Source(tuple(statement(text, 4)))
