"""From a plan to what `model.py` is made of: one class a block, and the model around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.dims import Which
from ..ir.graph import Graph, Node, Value
from ..ir.lines import print_call
from ..ir.model import EMBED, HEAD, PHASES, Block, Param
from ..ir.reach import caches_read, windows
from ..ir.weights import Each
from ..schedule.code import Code, call, name, string, tuple_of
from ..schedule.select import Plan
from .body import RESERVED, Writer
from .layout import statement
from .values import Name, Prose, Source

TAKEN = frozenset(
    {
        *("Any", "Cache", "Callable", "ClassVar", "Config", "Held", "Iterator", "LayerCache"),
        *("Model", "Part", "Path", "Sequence", "Step", "Tensor"),
    }
)
"""What `model.py` and `weights.py` already call something."""
WIDE = "torch.promote_types(dtype, torch.float32)"


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
    function: Name
    """Of `weights.py`: which tensors the layer holds."""
    doc: Prose
    rows: Source
    windows: Source
    parameters: Source
    methods: tuple[Method, ...]
    dispatch: Source


@dataclass(frozen=True)
class Module:
    """What the template of `model.py` is given."""

    plan: Plan
    which: Which
    trace: bool = False
    """Let every function tell `trace` what it computes: to find where a package differs."""

    @property
    def functions(self) -> list[tuple[str, list[str]]]:
        """The functions to import, by the emitted file that holds them."""
        files: dict[str, set[str]] = {}
        for kernel in self.plan.used():
            if kernel.functions:
                files.setdefault(kernel.stem(), set()).update(kernel.functions)
        return [(stem, sorted(files[stem])) for stem in sorted(files)]

    @property
    def imports(self) -> Source:
        names = ", ".join(sorted(f for _, functions in self.functions for f in functions))
        return Source(tuple(statement(f"from .kernels import {names}", 0)))

    @property
    def stream(self) -> tuple[str, ...]:
        """What flows from layer to layer, as variables."""
        return _stream(next(iter(self._block(self.layer_blocks[0]).graphs.values())))

    @property
    def stream_names(self) -> list[Name]:
        return [Name(variable) for variable in self.stream]

    @property
    def carried(self) -> Code:
        return Code(", ".join(name(variable).text for variable in self.stream))

    @property
    def stream_type(self) -> Code:
        return Code("Tensor" if len(self.stream) == 1 else f"tuple[{_tensors(len(self.stream))}]")

    @property
    def uses_functional(self) -> bool:
        """Whether any line calls a function of `torch.nn.functional`."""
        sources = [m.body for layer in self.layers() for m in layer.methods]
        sources += [self.embed_body, self.shared_body, self.head_body]
        return any("F." in line for source in sources for line in source.lines)

    @property
    def windowed(self) -> bool:
        """Whether any cache keeps a window of rows only."""
        return any(windows(block) for block in self.plan.model.blocks.values())

    @property
    def layer_blocks(self) -> list[str]:
        return [name for name in self.plan.model.blocks if name not in (EMBED, HEAD)]

    def layers(self) -> list[Layer]:
        return [self._layer(self._block(name)) for name in self.layer_blocks]

    def class_name(self, block: str) -> str:
        """The class of a block; one that the model has already is told apart."""
        title = "".join(word[:1].upper() + word[1:] for word in block.split("_"))
        return f"{title}Layer" if title in TAKEN else title

    @property
    def class_imports(self) -> Source:
        names = sorted(["Config", "Model", *map(self.class_name, self.layer_blocks)])
        return Source(tuple(statement(f"from .model import {', '.join(names)}", 0)))

    @property
    def schedule(self) -> Source:
        runs = [
            f"({self.class_name(name)}, {count})"
            for name, count in self.plan.model.schedule
            if name not in (EMBED, HEAD)
        ]
        kinds = " | ".join(f"type[{self.class_name(name)}]" for name in self.layer_blocks)
        text = f"schedule: ClassVar[tuple[tuple[{kinds}, int], ...]] = ({', '.join(runs)},)"
        return Source(tuple(statement(text, 4)))

    # The model around the layers

    @property
    def embed_parameters(self) -> Source:
        block = self._block(EMBED)
        return Source(tuple(self._parameters(block, block.params)))

    @property
    def head_parameters(self) -> Source:
        """The head's parameters, without one that is the embedding's."""
        block = self._block(HEAD)
        own = {n: p for n, p in block.params.items() if self.tied(HEAD, n) is None}
        return Source(tuple(self._parameters(block, own)))

    def tied(self, block: str, param: str) -> str | None:
        """The embedding's parameter that a parameter of the head is, if it is one."""
        if block != HEAD:
            return None
        program = self._block(HEAD).params[param].program
        same = [n for n, p in self._block(EMBED).params.items() if p.program == program]
        return same[0] if same else None

    @property
    def invariants(self) -> dict[str, tuple[str, Node, Graph]]:
        """What depends on positions alone, and so is computed once for all layers.

        Maps the printed op to the block that first has it, its node and its graph.
        """
        found: dict[str, tuple[str, Node, Graph]] = {}
        for block in self.layer_blocks:
            for graph in self._block(block).graphs.values():
                for node in _invariant(graph):
                    assert node.op is not None
                    key = print_call(node.op, graph.operands(node))
                    found.setdefault(key, (block, node, graph))
        return found

    def shared(self) -> dict[str, tuple[str, ...]]:
        """The variables of each invariant, unique in the model."""
        variables: dict[str, tuple[str, ...]] = {}
        taken = set(self.stream) | {"positions", "tokens"}
        for key, (_, node, _) in self.invariants.items():
            names = []
            for value in node.results:
                choices = (value.name if i < 2 else f"{value.name}_{i}" for i in range(1, 10**6))
                names.append(next(c for c in choices if c not in taken))
                taken.add(names[-1])
            variables[key] = tuple(names)
        return variables

    @property
    def layer_arguments(self) -> tuple[str, ...]:
        """What every layer is called with, but for its cache."""
        shared = [variable for names in self.shared().values() for variable in names]
        return (*self.stream, "positions", *shared)

    @property
    def embed_body(self) -> Source:
        block = self._block(EMBED)
        graph = block.graph("train")
        given = {"tokens": name("tokens"), "positions": name("positions")}
        writer = self._writer(block, next(iter(block.graphs)), graph, given, 8)
        writer.targets = self.stream
        return Source(tuple(writer.write()))

    @property
    def shared_body(self) -> Source:
        lines: list[str] = []
        for key, variables in self.shared().items():
            block, node, graph = self.invariants[key]
            operands = [name(value.name) for value in graph.operands(node)]
            assert node.op is not None
            phases = next(p for p, g in self._block(block).graphs.items() if g is graph)
            kernel = self.plan.kernel(block, phases, node.name)
            code = kernel.call(node.op.at(self.which), *operands, phases=phases)
            lines += statement(f"{', '.join(variables)} = {code.text}", 8)
        return Source(tuple(lines))

    @property
    def layer_call(self) -> Source:
        result = ", ".join(self.stream)
        code = call("layer", *map(name, self.layer_arguments), name("cache"))
        return Source(tuple(statement(f"{result} = {code.text}", 12)))

    @property
    def head_signature(self) -> Source:
        arguments = ["self", *(f"{variable}: Tensor" for variable in self.stream)]
        return Source(_definition("_logits", arguments, "Tensor"))

    @property
    def head_body(self) -> Source:
        block = self._block(HEAD)
        phases, graph = next(iter(block.graphs.items()))
        given = {
            v.name: name(variable)
            for v, variable in zip(_stream_values(graph), self.stream, strict=True)
        }
        writer = self._writer(block, phases, graph, given, 8)
        return Source(tuple(writer.write()))

    # One layer

    def _layer(self, block: Block) -> Layer:
        methods = []
        for phases, graph in block.graphs.items():
            method = "forward" if len(block.graphs) == 1 else f"_{phases[0]}"
            given = {v.name: name(v.name) for v in graph.inputs}
            keys = self.shared()
            for node in _invariant(graph):
                assert node.op is not None
                key = print_call(node.op, graph.operands(node))
                for value, variable in zip(node.results, keys[key], strict=True):
                    given[value.name] = name(variable)
            writer = self._writer(block, phases, graph, given, 8)
            body = Source(tuple(writer.write()))
            methods.append(Method(Name(method), self._signature(method, phases), body))
        return Layer(
            block.name,
            Name(self.class_name(block.name)),
            Name(f"{block.name}_tensors"),
            Prose(self._describe(block)),
            self._rows(block),
            self._windows(block),
            Source(tuple(self._parameters(block, block.params))),
            tuple(methods),
            self._dispatch(block),
        )

    def _signature(self, method: str, phases: tuple[str, ...]) -> Source:
        every = ["self", *(f"{variable}: Tensor" for variable in self.layer_arguments)]
        if phases != ("train",):
            every.append(
                "cache: LayerCache | None = None" if "train" in phases else "cache: LayerCache"
            )
        return Source(_definition(method, every, self.stream_type.text))

    def _dispatch(self, block: Block) -> Source:
        """Which method runs, for a block whose phases differ."""
        if len(block.graphs) == 1:
            return Source(())
        lines: list[str] = []
        *others, last = block.graphs
        for phases in others:
            condition = " or ".join(_TEST[phase] for phase in phases)
            lines.append(f"        if {condition.format(x=self.stream[0])}:")
            lines += statement(f"return {self._passed_on(phases)}", 12)
        lines += statement(f"return {self._passed_on(last)}", 8)
        return Source((*self._signature("forward", PHASES).lines, *lines))

    def _passed_on(self, phases: tuple[str, ...]) -> str:
        cache = () if phases == ("train",) else ("cache",)
        return call(f"self._{phases[0]}", *map(name, (*self.layer_arguments, *cache))).text

    def _describe(self, block: Block) -> str:
        scopes: dict[str, None] = {}
        for graph in block.graphs.values():
            for node in graph.nodes():
                if node.scope:
                    scopes[node.scope.replace("_", " ")] = None
        return f"{self._where(block.name)}: {', then '.join(scopes)}."

    def _where(self, block: str) -> str:
        places, start = [], 0
        for name_, count in self.plan.model.schedule:
            if name_ in (EMBED, HEAD):
                continue
            if name_ == block:
                places.append((start, start + count - 1))
            start += count
        if len(places) == 1:
            first, last = places[0]
            return f"Layer {first}" if first == last else f"Layers {first} to {last}"
        return f"{sum(last - first + 1 for first, last in places)} of the {start} layers"

    def _rows(self, block: Block) -> Source:
        rows = [
            f"{string(cache)}: {tuple_of(*(d.at(self.which) for d in type.row)).text}"
            for cache, type in block.caches.items()
        ]
        text = f"rows: ClassVar[dict[str, tuple[int, ...]]] = {{{', '.join(rows)}}}"
        return Source(tuple(statement(text, 4)))

    def _windows(self, block: Block) -> Source:
        kept = [f"{string(c)}: {dim.at(self.which)}" for c, dim in windows(block).items()]
        text = f"windows: ClassVar[dict[str, int]] = {{{', '.join(kept)}}}"
        return Source(tuple(statement(text, 4)))

    def _parameters(self, block: Block, params: Mapping[str, Param]) -> list[str]:
        lines: list[str] = []
        for key, param in params.items():
            sizes = [d.at(self.which) for d in param.program.shape]
            wide = param.dtype != self.plan.model.dtype
            dtype = WIDE if wide else "dtype"
            family = isinstance(param.program, Each)
            arguments = f"{', '.join(map(str, sizes[1:] if family else sizes))}, dtype={dtype}"
            initial = _initial(block, key)
            made = f"nn.Parameter(torch.{initial}({arguments}))"
            if initial == "normal":
                made = f"normal({arguments})"
            if family:
                made = f"nn.ParameterList({made} for _ in range({sizes[0]}))"
            lines += statement(f"self.{key} = {made}", 8)
        return lines

    def _writer(
        self,
        block: Block,
        phases: tuple[str, ...],
        graph: Graph,
        given: Mapping[str, Code],
        indent: int,
    ) -> Writer:
        params = {
            v.name: name(f"self.{self.tied(block.name, v.name) or v.name}") for v in graph.params
        }
        functions = {f for _, names in self.functions for f in names}

        kept = windows(block)
        read = {n.name: cache for n, (cache, *_) in caches_read(graph) if cache in kept}

        def kernel(node: Node) -> Any:
            return self.plan.kernel(block.name, phases, node.name)

        return Writer(
            graph,
            kernel,
            phases,
            {**given, **params},
            self.which,
            indent,
            reserved=RESERVED | functions | set(self.layer_arguments) - set(self.stream),
            windows=read,
            block=block.name,
            trace=self.trace,
        )

    def _block(self, block: str) -> Block:
        return self.plan.model.blocks[block]


_TEST = {
    "train": "cache is None",
    "prefill": "{x}.shape[1] > 1",
    "decode": "{x}.shape[1] == 1",
}


def _invariant(graph: Graph) -> Iterator[Node]:
    """The ops that read nothing but positions."""
    for node in graph.nodes():
        if node.op is None or node.op.stateful:
            continue
        sources = {v.name for v in graph.operands(node)}
        if sources == {"positions"}:
            yield node


def _stream_values(graph: Graph) -> tuple[Value, ...]:
    return tuple(v for v in graph.inputs if v.name not in ("tokens", "positions"))


def _stream(graph: Graph) -> tuple[str, ...]:
    return tuple(v.name for v in _stream_values(graph))


def _initial(block: Block, param: str) -> str:
    """How a parameter starts out, as the op that reads it says."""
    for graph in block.graphs.values():
        values = [v for v in graph.params if v.name == param]
        for value in values:
            for node in graph.users(value):
                assert node.op is not None
                names = node.op.operand_names()
                slot = graph.operands(node).index(value)
                return node.op.initial(names[min(slot, len(names) - 1)])
    return "normal"


def _definition(method: str, arguments: list[str], result: str) -> tuple[str, ...]:
    line = f"    def {method}({', '.join(arguments)}) -> {result}:"
    if len(line) <= 100:
        return (line,)
    inside = f"        {', '.join(arguments)}"
    if len(inside) <= 100:
        return (f"    def {method}(", inside, f"    ) -> {result}:")
    each = (f"        {argument}," for argument in arguments)
    return (f"    def {method}(", *each, f"    ) -> {result}:")


def _tensors(count: int) -> str:
    return ", ".join(["Tensor"] * count)
