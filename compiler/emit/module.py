"""From a plan to what the template of `model.py` is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..ir.model import EMBED, HEAD
from ..schedule.code import Code, call, name
from .frame import Frame, definition, stream_values
from .layer import Layer, LayerWriter
from .layout import statement
from .values import Name, Source


@dataclass(frozen=True)
class Module(Frame):
    """The model around the layers, and the layers."""

    @property
    def imports(self) -> Source:
        names = ", ".join(sorted(f for _, functions in self.functions for f in functions))
        return Source(tuple(statement(f"from .kernels import {names}", 0)))

    @property
    def stream_names(self) -> list[Name]:
        return [Name(variable) for variable in self.stream]

    @property
    def carried(self) -> Code:
        return Code(", ".join(name(variable).text for variable in self.stream))

    @property
    def uses_functional(self) -> bool:
        """Whether any line calls a function of `torch.nn.functional`."""
        sources = [m.body for layer in self.layers for m in layer.methods]
        sources += [self.embed_body, self.shared_body, self.head_body]
        return any("F." in line for source in sources for line in source.lines)

    @property
    def routed(self) -> bool:
        """Whether any layer chooses experts for each token."""
        return any(layer.routers for layer in self.layers)

    @cached_property
    def layers(self) -> list[Layer]:
        return [LayerWriter(self, self.block(name)).write() for name in self.layer_blocks]

    @property
    def class_imports(self) -> Source:
        names = sorted(["Config", "Model", *map(self.class_name, self.layer_blocks)])
        return Source(tuple(statement(f"from .model import {', '.join(names)}", 0)))

    @property
    def routed_imports(self) -> Source:
        """The import of the classes that choose experts."""
        names = sorted(["Model", *(str(layer.name) for layer in self.layers if layer.routers)])
        return Source(tuple(statement(f"from .model import {', '.join(names)}", 0)))

    @property
    def schedule(self) -> Source:
        runs = [
            f"({self.class_name(name)}, {count})"
            for name, count in self.plan.model.schedule
            if name not in (EMBED, HEAD)
        ]
        kinds = " | ".join(f"type[{self.class_name(name)}]" for name in self.layer_blocks)
        text = f"schedule: ClassVar[tuple[tuple[{kinds}, int], ...]] = {_schedule(runs)}"
        return Source(tuple(statement(text, 4)))

    @property
    def embed_parameters(self) -> Source:
        block = self.block(EMBED)
        return Source(tuple(self.parameters(block, block.params)))

    @property
    def head_parameters(self) -> Source:
        """The head's parameters, without one that is the embedding's."""
        block = self.block(HEAD)
        own = {n: p for n, p in block.params.items() if self.tied(HEAD, n) is None}
        return Source(tuple(self.parameters(block, own)))

    @property
    def embed_body(self) -> Source:
        block = self.block(EMBED)
        graph = block.graph("train")
        given = {"tokens": name("tokens"), "positions": name("positions")}
        writer = self.writer(block, next(iter(block.graphs)), graph, given, 8)
        writer.targets = self.stream
        return Source(tuple(writer.write()))

    @property
    def shared_body(self) -> Source:
        lines: list[str] = []
        for key, variables in self.shared.items():
            block, node, graph = self.invariants[key]
            operands = [name(value.name) for value in graph.operands(node)]
            assert node.op is not None
            phases = next(p for p, g in self.block(block).graphs.items() if g is graph)
            (_, kernel), *_ = self.plan.kernels(block, phases, node.name)
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
        return Source(definition("_logits", arguments, "Tensor"))

    @property
    def head_body(self) -> Source:
        block = self.block(HEAD)
        phases, graph = next(iter(block.graphs.items()))
        given = {
            v.name: name(variable)
            for v, variable in zip(stream_values(graph), self.stream, strict=True)
        }
        writer = self.writer(block, phases, graph, given, 8)
        return Source(tuple(writer.write()))


def _schedule(runs: list[str]) -> str:
    """The tuple of all runs; of blocks that take turns, that of one turn times their number."""
    for period in range(1, len(runs) // 3 + 1):
        times, rest = divmod(len(runs), period)
        if runs == runs[:period] * times + runs[:rest]:
            end = f" + ({', '.join(runs[:rest])},)" if rest else ""
            return f"({', '.join(runs[:period])}) * {times}{end}"
    return f"({', '.join(runs)},)"
