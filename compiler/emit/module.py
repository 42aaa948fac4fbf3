"""From a plan to what the template of `model.py` is given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..ir.model import DRAFT_EMBED, DRAFT_NORM, EMBED, FINAL_NORM, HEAD, LOSS, is_layer, taken
from ..schedule.code import Code, call, name
from .frame import Frame, definition
from .layer import Layer, LayerWriter
from .layout import statement
from .values import Name, Source

CALL = re.compile(r'(?<![\w."])\w+(?=[(,])')  # a function, called or handed on
HIDDEN = ("hidden",)  # what the head and a draft read, as a variable
TARGETS = ("targets",)  # what the loss is given behind that


@dataclass(frozen=True)
class Module(Frame):
    """The model around the layers, and the layers."""

    @property
    def imports(self) -> Source:
        return self._imports(
            [m.body for layer in self.layers for m in layer.methods] + self._bodies
        )

    @property
    def draft_imports(self) -> Source:
        return self._imports(self._draft_bodies)

    def _imports(self, sources: list[Source]) -> Source:
        """The import of the kernels' functions that these lines call."""
        called = {f for source in sources for line in source.lines for f in CALL.findall(line)}
        known = {f for _, functions in self.functions for f in functions}
        names = ", ".join(sorted(known & called))
        return Source(tuple(statement(f"from .kernels import {names}", 0)) if names else ())

    @property
    def stream_names(self) -> list[Name]:
        return [Name(variable) for variable in self.stream]

    @property
    def carried(self) -> Code:
        return Code(", ".join(name(variable).text for variable in self.stream))

    @property
    def uses_functional(self) -> bool:
        """Whether any line calls a function of `torch.nn.functional`."""
        sources = [m.body for layer in self.layers for m in layer.methods] + self._bodies
        found = any("F." in line for source in sources for line in source.lines)
        return found or not self.fused_loss

    @cached_property
    def counters(self) -> int:
        """How many counters a cache has for each row: as many as any kernel wants of it."""
        target = self.plan.target
        decode = [c for c in self.plan.choices if c.phase == "decode"]
        return max((c.kernel.counters(c.op, c.operands, target) for c in decode), default=0)

    @property
    def routed(self) -> bool:
        """Whether any layer chooses experts for each token."""
        return any(layer.routers for layer in self.layers)

    @property
    def shifted(self) -> bool:
        """Whether what makes a router's logits has a bias, which is to be recorded."""
        told = (each for layer in self.layers for each in layer.routers)
        return any("logit_bias=" in line for each in told for line in each.given.lines)

    @property
    def draft_uses_functional(self) -> bool:
        return any("F." in line for source in self._draft_bodies for line in source.lines)

    @property
    def _bodies(self) -> list[Source]:
        return [self.embed_body, self.shared_body, self.head_body, self.loss_body]

    @property
    def _draft_bodies(self) -> list[Source]:
        return [self.draft_embed_body, self.shared_body, self.draft_norm_body]

    @cached_property
    def layers(self) -> list[Layer]:
        return [LayerWriter(self, self.block(name)).write() for name in self.layer_blocks]

    @property
    def class_imports(self) -> Source:
        return self._classes(["Config", *map(self.class_name, self.layer_blocks)])

    @property
    def routed_imports(self) -> Source:
        """The import of the classes that choose experts."""
        return self._classes(str(layer.name) for layer in self.layers if layer.routers)

    def _classes(self, classes: Iterable[str]) -> Source:
        """The import of classes of `model.py`, and of the model."""
        names = [*classes] if self.drafts else ["Model", *classes]
        lines = statement(f"from .model import {', '.join(sorted(names))}", 0)
        return Source((*["from .draft import Model"] * self.drafts, *lines))

    @property
    def schedule(self) -> Source:
        runs = [
            f"({self.class_name(name)}, {count})"
            for name, count in self.plan.model.schedule
            if is_layer(name)
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
        return self._own((FINAL_NORM, HEAD) if self.drafts else (HEAD,))

    @property
    def draft_class(self) -> Name:
        """The class of a draft's layer."""
        return Name(self.class_name(self.plan.model.draft[1]))

    @property
    def draft_class_imports(self) -> Source:
        names = ["Config", str(self.draft_class), "normal", *["trace"] * self.trace]
        return Source(tuple(statement(f"from .model import {', '.join(names)}", 0)))

    @property
    def draft_parameters(self) -> Source:
        return self._own((DRAFT_EMBED, DRAFT_NORM))

    def _own(self, blocks: tuple[str, ...]) -> Source:
        lines: list[str] = []
        for around in blocks:
            block = self.block(around)
            lines += self.parameters(block, self.untied(around))
        return Source(tuple(lines))

    @property
    def embed_body(self) -> Source:
        return self._body(EMBED, (), self.stream)

    @property
    def draft_embed_body(self) -> Source:
        return self._body(DRAFT_EMBED, HIDDEN, self.stream)

    @property
    def draft_norm_body(self) -> Source:
        return self._body(DRAFT_NORM, self.stream, ())

    def _body(self, around: str, stream: tuple[str, ...], targets: tuple[str, ...]) -> Source:
        """The lines of a block that is no layer: what it is given, and gives, as variables."""
        block = self.block(around)
        phases, graph = next(iter(block.graphs.items()))
        given = {"tokens": name("tokens"), "positions": name("positions")}
        for value, variable in zip(taken(graph), stream, strict=True):
            given[value.name] = name(variable)
        writer = self.writer(block, phases, graph, given, 8)
        writer.targets = targets
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
    def new_cache(self) -> Source:
        """The lines that allocate a cache of all layers."""
        return self._new_cache("block", " for block, count in self.schedule for _ in range(count)")

    @property
    def new_draft_cache(self) -> Source:
        """The lines that allocate a cache of a draft's layer."""
        return self._new_cache("self.draft_layer", "")

    def _new_cache(self, layer: str, each: str) -> Source:
        end, made = "dtype=self.dtype, device=self.embed.device)", "Cache"
        if self.page is not None:
            end, made = f"pages=pages, {end}", "PagedCache"
        named = ["windows"] * self.windowed + ["dtypes"] * self.narrow
        if not named:
            lines = statement(f"rows = [{layer}.rows{each}]", 8)
            return Source((*lines, *statement(f"return {made}(rows, batch, length, {end}", 8)))
        of = [f"{key}=[layer.{key} for layer in layers]" for key in named]
        given = ", ".join(["[layer.rows for layer in layers]", "batch", "length", *of, end])
        lines = statement(f"layers = [{layer}{each}]", 8)
        return Source((*lines, *statement(f"return {made}({given}", 8)))

    @property
    def layer_call(self) -> Source:
        return self._layer_call("layer", 12)

    @property
    def draft_call(self) -> Source:
        return self._layer_call("self.draft_layer", 8)

    def _layer_call(self, layer: str, indent: int) -> Source:
        code = call(layer, *map(name, self.layer_arguments), name("cache"))
        return Source(tuple(statement(f"{', '.join(self.stream)} = {code.text}", indent)))

    @property
    def head_signature(self) -> Source:
        return self._definition("_logits", self.stream)

    def _definition(self, method: str, given: tuple[str, ...]) -> Source:
        arguments = ["self", *(f"{variable}: Tensor" for variable in given)]
        return Source(definition(method, arguments, "Tensor"))

    @property
    def head_body(self) -> Source:
        """From the stream to logits; with a draft, which reads what is between, in two methods."""
        if not self.drafts:
            return self._body(HEAD, self.stream, ())
        return Source(
            (
                f"        return self._head(self._hidden({self.carried.text}))",
                "",
                *self._definition("_hidden", self.stream).lines,
                *self._body(FINAL_NORM, self.stream, ()).lines,
                "",
                *self._definition("_head", HIDDEN).lines,
                *self._body(HEAD, HIDDEN, ()).lines,
            )
        )

    @property
    def fused_loss(self) -> bool:
        """Whether the loss is computed without the logits."""
        return LOSS in self.plan.blocks

    @property
    def loss_signature(self) -> Source:
        return self._definition("_losses", (*self._before_head, *TARGETS))

    @property
    def loss_body(self) -> Source:
        """From what the head is given, and targets, to losses, where that needs no logits."""
        if not self.fused_loss:
            return Source(())
        return self._body(LOSS, (*self._before_head, *TARGETS), ())

    @property
    def head_given(self) -> Code:
        """The variables that the head is given, as arguments."""
        return Code(", ".join(name(variable).text for variable in self._before_head))

    @property
    def _before_head(self) -> tuple[str, ...]:
        return HIDDEN if self.drafts else self.stream


def _schedule(runs: list[str]) -> str:
    """The tuple of all runs; of blocks that take turns, that of one turn times their number."""
    for period in range(1, len(runs) // 3 + 1):
        times, rest = divmod(len(runs), period)
        if runs == runs[:period] * times + runs[:rest]:
            end = f" + ({', '.join(runs[:rest])},)" if rest else ""
            return f"({', '.join(runs[:period])}) * {times}{end}"
    return f"({', '.join(runs)},)"
