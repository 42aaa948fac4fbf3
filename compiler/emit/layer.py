"""The class of one block: its parameters, its caches, and a method for each of its graphs."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.lines import print_call
from ..ir.model import PHASES, Block, is_layer
from ..ir.reach import windows
from ..schedule.code import as_code, call, name
from .frame import Frame, definition, held_dtypes, invariant_nodes
from .layout import docstring, statement, words
from .routers import Recorded, described
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
    declared: Source
    routers: list[Recorded]
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
            self._declared(),
            described(self.block, self.frame.which),
            Source(tuple(self.frame.parameters(self.block, self.block.params))),
            tuple(methods),
            self._dispatch(),
            Source(definition(listing, [f"layer: {title}", "i: int"], "Iterator[Held]", 0)),
            Source(tuple(statement(f"yield from {listing}(layer, i)", 12))),
        )

    def _signature(self, method: str, phases: tuple[str, ...]) -> Source:
        every = ["self", *(f"{variable}: Tensor" for variable in self.frame.layer_arguments)]
        if phases != ("train",):
            kind = "LayerCache" if self.frame.page is None else "PagedLayer"
            every.append(f"cache: {kind} | None = None" if "train" in phases else f"cache: {kind}")
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
                    scopes[words(node.scope)] = None
        return f"{self._where()}: {', then '.join(scopes)}."

    def _where(self) -> str:
        places, start = [], 0
        for name_, count in self.frame.plan.model.schedule:
            if not is_layer(name_):
                continue
            if name_ == self.block.name:
                places.append((start, start + count - 1))
            start += count
        if not places:
            return "The draft's layer"
        first, last = places[0]
        where = f"Layer {first}" if first == last else f"Layers {first} to {last}"
        if len(places) > 1:
            where = f"{sum(last - first + 1 for first, last in places)} of the {start} layers"
        return f"{where}, and the draft's" if self.block.name in self._drafts else where

    @property
    def _drafts(self) -> tuple[str, ...]:
        return self.frame.plan.model.draft

    def _declared(self) -> Source:
        """What the class says of all its layers: rows of caches, and who is told of routes."""
        which, caches = self.frame.which, self.block.caches
        first = self.block.name == self.frame.layer_blocks[0]
        rows = {name: tuple(d.at(which) for d in type.row) for name, type in caches.items()}
        lines = ["    # What a token leaves in the cache."] if first else []
        text = f"rows: ClassVar[dict[str, tuple[int, ...]]] = {as_code(rows)}"
        lines += statement(text, 4)
        if self.frame.windowed:
            kept = {cache: dim.at(which) for cache, dim in windows(self.block).items()}
            lines += ["    # How many of the last rows attention reads, where not all."] * first
            lines += statement(f"windows: ClassVar[dict[str, int]] = {as_code(kept)}", 4)
        if self.frame.narrow:
            least = {k: name(f"torch.{d}") for k, d in held_dtypes(self.block).items()}
            lines += ["    # The least dtype of those that have not the model's."] * first
            lines += statement(f"dtypes: ClassVar[dict[str, torch.dtype]] = {as_code(least)}", 4)
        if described(self.block, which):
            lines.append("    # Is told what a router is given and which experts it chooses.")
            text = "record: Callable[[str, Tensor, Tensor], None] | None = None"
            lines += statement(text, 4)
        return Source(tuple(lines))
