"""A whole model: the blocks, one a distinct layer, and the schedule that repeats them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from ..errors import GraphError
from .dims import Dim
from .graph import Graph, Value
from .lines import print_graph
from .types import TensorType
from .weights import Program

PHASES = ("train", "prefill", "decode")

DECODED = Dim(8, 2)
"""New tokens of a row, at most, that a call of decode has: what has more of them is prefill."""

EMBED, HEAD = "embed", "head"  # the first and the last entry of every schedule
FINAL_NORM = "final_norm"  # the entry before the head, where a draft reads what the head does
DRAFT_EMBED, DRAFT_NORM = "draft_embed", "draft_norm"  # what stands around the layer of a draft
LOSS = "loss"  # what a plan makes of the head, for training
AROUND = (EMBED, FINAL_NORM, HEAD, DRAFT_EMBED, DRAFT_NORM, LOSS)  # the blocks that are no layers


@dataclass(frozen=True)
class Param:
    """A parameter of a block: how the checkpoint's tensors make it, and the dtype it is held in."""

    program: Program
    dtype: str

    @cached_property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.program.shape)


@dataclass
class Block:
    """A distinct layer: parameters and caches, and a graph for each of its phases.

    Phases that are the same share one graph. A block takes the stream (one or more values [B, T,
    D]) and `positions` [B, T], and returns the stream.
    """

    name: str
    params: dict[str, Param] = field(default_factory=dict)
    caches: dict[str, TensorType] = field(default_factory=dict)
    """Cache name -> its rows [B, S, ...]."""
    graphs: dict[tuple[str, ...], Graph] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    """Names of checkpoint tensors that nothing needs any more."""

    def graph(self, phase: str) -> Graph:
        return next(graph for phases, graph in self.graphs.items() if phase in phases)

    def split(self, phases: Sequence[str]) -> None:
        """Give `phases` graphs of their own where they share one with others."""
        graphs: dict[tuple[str, ...], Graph] = {}
        for group, graph in self.graphs.items():
            inside = tuple(p for p in group if p in phases)
            outside = tuple(p for p in group if p not in phases)
            for part in (inside, outside):
                if part:
                    graphs[part] = graph if part == group else graph.copy()
        self.graphs = {g: graphs[g] for g in sorted(graphs, key=lambda g: PHASES.index(g[0]))}

    def merge(self) -> None:
        """Let phases whose graphs read the same share one again."""
        groups: dict[str, list[tuple[tuple[str, ...], Graph]]] = {}
        for phases, graph in self.graphs.items():
            groups.setdefault("\n".join(print_graph(graph)), []).append((phases, graph))
        self.graphs = {
            tuple(p for p in PHASES if any(p in phases for phases, _ in same)): same[0][1]
            for same in groups.values()
        }

    def drop_unread(self) -> None:
        """Forget the parameters that no graph reads; the others stand in the order of their use."""
        read: dict[str, None] = {}
        for graph in self.graphs.values():
            for node in graph.nodes():
                for value in graph.operands(node):
                    if graph.node(value).kind == "param":  # a value may have the name of one
                        read.setdefault(value.name)
        self.params = {name: self.params[name] for name in read}

    def state(self) -> tuple[Any, ...]:
        """All that its text says, and is compared in no time where nothing has changed."""
        lines = [(phases, print_graph(graph)) for phases, graph in self.graphs.items()]
        return self.name, [*self.params.items()], [*self.caches.items()], self.unused, lines

    def copy(self) -> Block:
        graphs = {phases: graph.copy() for phases, graph in self.graphs.items()}
        return replace(self, params=dict(self.params), caches=dict(self.caches), graphs=graphs)


@dataclass
class Model:
    """Blocks by name, and the order in which they run: (block, how many times)."""

    name: str
    dtype: str
    blocks: dict[str, Block] = field(default_factory=dict)
    schedule: tuple[tuple[str, int], ...] = ()
    droppable: tuple[str, ...] = ()
    """Patterns of checkpoint tensors that may be there and are not read."""
    draft: tuple[str, ...] = ()
    """The blocks that predict one token further, if the model has any: from tokens, and from what
    the head was given before each, to the head again. Of layers there is one, past the last."""

    @property
    def layers(self) -> int:
        return sum(count for name, count in self.schedule if is_layer(name))

    @property
    def kept(self) -> tuple[tuple[str, int], ...]:
        """Each block whose weights are held, and how many times, once a run: a draft's as well."""
        return (*self.schedule, *((name, 1) for name in self.draft if name != HEAD))

    def beside_layers(self) -> tuple[list[str], list[str]]:
        """The blocks right before the layers, and those right behind them; a draft's as well."""
        before: dict[str, None] = {}
        behind: dict[str, None] = {}
        for chain in ([name for name, _ in self.schedule], self.draft):
            for one, other in pairwise(chain):
                if is_layer(one) < is_layer(other):
                    before[one] = None
                elif is_layer(one) > is_layer(other):
                    behind[other] = None
        return list(before), list(behind)

    def runs(self, at_most: int | None = None) -> Iterator[tuple[str, int]]:
        """Each run of a block with its layer index; what is no layer has index 0.

        With `at_most`, each entry of the schedule is repeated no more often, and layers are
        counted as they then stand: the twin of a deep model is a shallow one.
        """
        layer = 0
        for name, count in self.schedule:
            inner = is_layer(name)
            for _ in range(count if at_most is None else min(count, at_most)):
                yield name, layer if inner else 0
                layer += inner

    def draft_runs(self, at_most: int | None = None) -> Iterator[tuple[str, int]]:
        """The runs of the draft: all of it has the index past the last layer's of `runs`."""
        layers = sum(is_layer(name) for name, _ in self.runs(at_most))
        yield from ((name, layers) for name in self.draft)

    def shallow(self, at_most: int) -> Model:
        """The same model with each entry of its schedule repeated at most so often."""
        schedule = tuple((name, min(count, at_most)) for name, count in self.schedule)
        return replace(self, schedule=schedule)

    def state(self) -> tuple[Any, ...]:
        """All that its text says, and is compared in no time where nothing has changed."""
        blocks = [block.state() for block in self.blocks.values()]
        return self.name, self.dtype, self.droppable, self.schedule, self.draft, blocks

    def copy(self) -> Model:
        return replace(self, blocks={name: block.copy() for name, block in self.blocks.items()})


def is_layer(block: str) -> bool:
    """Whether a block is a layer, not one of those that stand around the layers."""
    return block not in AROUND


def taken(graph: Graph) -> tuple[Value, ...]:
    """The stream that a graph takes, beside tokens and positions."""
    return tuple(v for v in graph.inputs if v.name not in ("tokens", "positions"))


def verify(model: Model) -> None:
    """Check every rule that a graph can break; raise `GraphError` at the first that it does."""
    for block in model.blocks.values():
        try:
            verify_block(block)
        except GraphError as error:
            raise GraphError(f"block {block.name}: {error}") from None
    for name in (*(name for name, _ in model.schedule), *model.draft):
        if name not in model.blocks:
            raise GraphError(f"the schedule runs {name}, which is no block")
    takes = {name: _types(taken(_first(block))) for name, block in model.blocks.items()}
    gives = {name: _types(_first(block).outputs) for name, block in model.blocks.items()}
    for one, other in pairwise([name for name, _ in model.schedule]):
        if takes[other] != gives[one]:
            raise GraphError(f"block {other} takes {takes[other]}, but is given {gives[one]}")
    for name, count in model.schedule:
        if count > 1 and takes[name] != gives[name]:
            raise GraphError(f"block {name} is repeated, but does not return what it takes")
    if model.draft:
        _verify_draft(model, takes, gives)


def _verify_draft(model: Model, takes: Mapping[str, str], gives: Mapping[str, str]) -> None:
    """Check that a draft reads what the head reads, and gives it the same."""
    start, head = model.draft[0], model.draft[-1]
    around = (DRAFT_EMBED, DRAFT_NORM, HEAD)
    if (start, *model.draft[2:]) != around or not is_layer(model.draft[1]):
        raise GraphError(f"a draft is {DRAFT_EMBED}, a layer, {DRAFT_NORM}, {HEAD}")
    if model.schedule[-2:] != ((FINAL_NORM, 1), (HEAD, 1)):
        raise GraphError(f"a model with a draft ends in {FINAL_NORM}, {HEAD}")
    if takes[start] != takes[head]:
        raise GraphError(f"block {start} takes {takes[start]}, but is given {takes[head]}")
    for one, other in pairwise(model.draft):
        if takes[other] != gives[one]:
            raise GraphError(f"block {other} takes {takes[other]}, but is given {gives[one]}")


def verify_block(block: Block) -> None:
    """Check the rules that concern one block alone; raise `GraphError` at the first broken."""
    phases = [phase for group in block.graphs for phase in group]
    if sorted(phases) != sorted(PHASES):
        raise GraphError(f"has graphs for {', '.join(phases)}; it needs {', '.join(PHASES)} once")
    signatures = {_signature(graph) for graph in block.graphs.values()}
    if len(signatures) > 1:
        raise GraphError("its phases take or return different values")
    read: set[str] = set()
    for phases_, graph in block.graphs.items():
        try:
            _verify_graph(graph, block.params, block.caches)
        except GraphError as error:
            raise GraphError(f"{'/'.join(phases_)}: {error}") from None
        read |= {value.name for value in graph.params}
    for name in block.params.keys() - read:
        raise GraphError(f"parameter %{name} is read by no phase")


def _verify_graph(
    graph: Graph, params: Mapping[str, Param], caches: Mapping[str, TensorType]
) -> None:
    graph.once(_verify_types)
    written: list[str] = []
    for node in graph.nodes():
        if node.kind == "param":
            if node.name not in params:
                raise GraphError(f"%{node.name} is no parameter of the block")
            if params[node.name].type != node.results[0].type:
                raise GraphError(
                    f"%{node.name} is {node.results[0].type}, its program {params[node.name].type}"
                )
        if node.op is not None and node.op.stateful:
            contexts = node.results[len(node.results) - len(node.op.written) :]
            for cache, context in zip(node.op.written, contexts, strict=True):
                written.append(cache)
                if caches.get(cache) != context.type:
                    raise GraphError(
                        f"%{context.name} is {context.type}, cache {cache} {caches.get(cache)}"
                    )
    if sorted(written) != sorted(caches):
        raise GraphError(
            f"writes caches {', '.join(written) or 'none'}; the block has {', '.join(caches)}"
        )
    if not graph.outputs:
        raise GraphError("returns nothing")


def _verify_types(graph: Graph) -> None:
    for node in graph.nodes():
        if node.op is None:
            continue
        types = node.op.types(*(v.type for v in graph.operands(node)))
        if types != tuple(v.type for v in node.results):
            raise GraphError(f"%{node.name} is not of the type that {node.op.name} gives")


def _signature(graph: Graph) -> tuple[tuple[object, ...], ...]:
    return tuple(graph.inputs), tuple(v.type for v in graph.outputs)


def _first(block: Block) -> Graph:
    return next(iter(block.graphs.values()))


def _types(values: tuple[Value, ...]) -> str:
    return ", ".join(str(value.type) for value in values)
