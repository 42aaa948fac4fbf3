"""What the classes of `model.py` share: names, what flows between layers, and their writers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ArchsmithError
from ..ir.dims import Which
from ..ir.graph import Graph, Node, Value
from ..ir.lines import print_call
from ..ir.model import DECODED, DRAFT_EMBED, EMBED, HEAD, LOSS, Block, Param, is_layer, taken
from ..ir.paging import lying, paged
from ..ir.reach import caches_read, windows
from ..ir.types import EIGHT_BITS
from ..ir.weights import Each
from ..ops.attention import Cached
from ..ops.elementwise import Widen
from ..ops.quantized_rows import FLOAT8, QuantizeRows
from ..schedule.code import Code, name
from ..schedule.kernel import Kernel
from ..schedule.plan import Plan
from .body import RESERVED, Writer
from .contexts import Contexts
from .layout import WIDTH, statement
from .routers import recorded

TAKEN = frozenset(
    {
        *("F", "Any", "Cache", "Callable", "ClassVar", "Config", "Held", "Iterator", "LayerCache"),
        *("Made", "Model", "PagedCache", "PagedLayer", "Part", "Path", "Sequence", "Step"),
        "Tensor",
    }
)
"""What `model.py` and `weights.py` already call something."""
WIDE = "torch.promote_types(dtype, torch.float32)"


@dataclass(frozen=True)
class Frame:
    """A plan as seen by those who write its classes."""

    plan: Plan
    which: Which
    trace: bool = False
    """Let every function tell `trace` what it computes: to find where a package differs."""

    @cached_property
    def functions(self) -> list[tuple[str, list[str]]]:
        """The functions to import, by the emitted file that holds them."""
        files: dict[str, set[str]] = {}
        taken = [(choice.kernel, choice.op) for choice in self.plan.choices]
        taken += [(step.kernel, step.op) for step in self.plan.steps(*self.plan.choices)]
        for kernel, op in taken:
            if kernel.functions:
                files.setdefault(kernel.stem(), set()).add(kernel.function(op))
        return [(stem, sorted(files[stem])) for stem in sorted(files)]

    @cached_property
    def windowed(self) -> bool:
        """Whether any cache keeps a window of rows only."""
        return any(windows(block) for block in self.plan.model.blocks.values())

    @cached_property
    def narrow(self) -> bool:
        """Whether any cache is not in the model's dtype."""
        return any(map(held_dtypes, self.plan.model.blocks.values()))

    @cached_property
    def page(self) -> int | None:
        """How many slots a page has, where caches that are read whole lie in pages."""
        found = paged(self.plan.model)
        return None if found is None else found.at(self.which)

    def condition(self, phases: tuple[str, ...]) -> str:
        """What holds in these phases alone, in a function that all run."""
        x = self.stream[0]
        tests = {
            "train": "cache is None",
            "prefill": f"{x}.shape[1] > {DECODED.at(self.which)}",
            "decode": f"{x}.shape[1] <= {DECODED.at(self.which)}",
        }
        return " or ".join(tests[phase] for phase in phases)

    @property
    def stream(self) -> tuple[str, ...]:
        """What flows from layer to layer, as variables."""
        return _stream(next(iter(self.block(self.layer_blocks[0]).graphs.values())))

    @property
    def drafts(self) -> bool:
        """Whether the model predicts one token further, with a layer past the last."""
        return bool(self.plan.model.draft)

    @property
    def stream_type(self) -> Code:
        return Code("Tensor" if len(self.stream) == 1 else f"tuple[{tensors_of(len(self.stream))}]")

    @property
    def layer_blocks(self) -> list[str]:
        return [name for name in self.plan.model.blocks if is_layer(name)]

    def class_name(self, block: str) -> str:
        """The class of a block; one that the model has already is told apart."""
        title = "".join(word[:1].upper() + word[1:] for word in block.split("_"))
        return f"{title}Layer" if title in TAKEN else title

    def tied(self, block: str, param: str) -> str | None:
        """The embedding's parameter that one of the head or of a draft is, if it is one."""
        if block not in (HEAD, LOSS, DRAFT_EMBED):
            return None
        program = self.block(block).params[param].program
        same = [n for n, p in self.block(EMBED).params.items() if p.program == program]
        return same[0] if same else None

    def untied(self, block: str) -> dict[str, Param]:
        """The parameters of a block but for those that are the embedding's."""
        params = self.block(block).params
        return {name: param for name, param in params.items() if self.tied(block, name) is None}

    @cached_property
    def invariants(self) -> dict[str, tuple[str, Node, Graph]]:
        """What depends on positions alone, and so is computed once for all layers.

        Maps the printed op to the block that first has it, its node and its graph.
        """
        found: dict[str, tuple[str, Node, Graph]] = {}
        for block in self.layer_blocks:
            for graph in self.block(block).graphs.values():
                for node in invariant_nodes(graph):
                    assert node.op is not None
                    key = print_call(node.op, graph.operands(node))
                    found.setdefault(key, (block, node, graph))
        return found

    @cached_property
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

    @cached_property
    def layer_arguments(self) -> tuple[str, ...]:
        """What every layer is called with, but for its cache."""
        shared = [variable for names in self.shared.values() for variable in names]
        return (*self.stream, "positions", *shared)

    def parameters(self, block: Block, params: Mapping[str, Param]) -> list[str]:
        lines: list[str] = []
        for key, param in params.items():
            sizes = [d.at(self.which) for d in param.program.shape]
            initial, trained = _initial(block, key)
            # What is no weight is moved by steps that a narrower dtype would lose.
            wide = param.dtype != self.plan.model.dtype or not trained
            dtype = WIDE if wide else "dtype"
            if param.dtype in EIGHT_BITS:
                dtype = f"torch.{param.dtype}"
            family = isinstance(param.program, Each)
            arguments = f"{', '.join(map(str, sizes[1:] if family else sizes))}, dtype={dtype}"
            made = f"nn.{'Parameter' if trained else 'Buffer'}(torch.{initial}({arguments}))"
            if initial == "normal":
                made = f"normal({arguments})"
            if family:
                made = f"nn.ParameterList({made} for _ in range({sizes[0]}))"
            lines += statement(f"self.{key} = {made}", 8)
        return lines

    def writer(
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

        def kernels(node: Node) -> Any:
            return self.plan.kernels(block.name, phases, node.name)

        def counters(node: Node, kernel: Kernel) -> int:
            types = tuple(value.type for value in graph.operands(node))
            return kernel.counters(node.op, types, self.plan.target)

        return Writer(
            graph,
            kernels,
            phases,
            {**given, **params},
            self.which,
            indent,
            reserved=RESERVED | functions | set(self.layer_arguments) - set(self.stream),
            contexts=Contexts(read, self._lying(block, graph), self.page, counters),
            routers=recorded(graph) if "train" in phases else {},
            condition=self.condition,
            block=block.name,
            trace=self.trace,
        )

    def block(self, block: str) -> Block:
        return self.plan.blocks[block]

    def _lying(self, block: Block, graph: Graph) -> frozenset[str]:
        """The nodes that are handed contexts in pages, or hand them out.

        Raises `ArchsmithError` for one that appends to pages what is then read as rows.
        """
        found = lying(block, graph)
        for node in graph.nodes() if self.page else ():
            op = node.op
            if op is None or not op.stateful or op.keeps or node.name in found:
                continue
            if not windows(block).keys() & set(op.written):
                raise ArchsmithError(
                    f"%{node.name} of block {block.name} appends to pages, but what reads them"
                    " reads rows: let the pass that pages caches run behind the one that made it"
                )
        return found


def held_dtypes(block: Block) -> dict[str, str]:
    """The caches of numbers in 8 bits and of their scales, with the least dtype that each has."""
    graph = next(iter(block.graphs.values()))
    found: dict[str, str] = {}
    for node in graph.nodes():
        if isinstance(node.op, QuantizeRows):
            for value, least in zip(node.results, (FLOAT8, "float32"), strict=True):
                caches = [user.op for user in graph.users(value) if isinstance(user.op, Cached)]
                found |= {op.cache: least for op in caches}
    return found


def invariant_nodes(graph: Graph) -> Iterator[Node]:
    """The ops that read nothing but positions."""
    for node in graph.nodes():
        if node.op is None or node.op.stateful:
            continue
        sources = {v.name for v in graph.operands(node)}
        if sources == {"positions"}:
            yield node


def _stream(graph: Graph) -> tuple[str, ...]:
    return tuple(v.name for v in taken(graph))


def _initial(block: Block, param: str) -> tuple[str, bool]:
    """How a parameter starts out and whether it is trained, as the op that reads it says."""
    for graph in block.graphs.values():
        for value in [v for v in graph.params if v.name == param]:
            for read, node in _readers(graph, value):
                assert node.op is not None
                given = graph.operands(node)
                operand = node.op.named(len(given))[given.index(read)]
                return node.op.initial(operand), node.op.trained(operand)
    return "normal", True


def _readers(graph: Graph, value: Value) -> Iterator[tuple[Value, Node]]:
    """The ops that read a value, as it is or widened, and which of the two they read."""
    for node in graph.users(value):
        if isinstance(node.op, Widen):
            yield from _readers(graph, node.results[0])
        else:
            yield value, node


def definition(
    function: str, arguments: list[str], result: str, indent: int = 4
) -> tuple[str, ...]:
    """The first lines of a function, by default of a method."""
    margin, inner = " " * indent, " " * (indent + 4)
    line = f"{margin}def {function}({', '.join(arguments)}) -> {result}:"
    if len(line) <= WIDTH:
        return (line,)
    inside = [f"{inner}{', '.join(arguments)}"]
    if len(inside[0]) > WIDTH:
        inside = [f"{inner}{argument}," for argument in arguments]
    return (f"{margin}def {function}(", *inside, f"{margin}) -> {result}:")


def tensors_of(count: int) -> str:
    return ", ".join(["Tensor"] * count)
