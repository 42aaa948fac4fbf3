"""The twin: a model evaluated at its probe sizes in float64, in every way it may be called."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..ir.evaluate import Evaluation, Numbers, Results, arrays
from ..ir.graph import Graph
from ..ir.model import DECODED, Block, Model
from ..ir.types import TensorType
from ..ir.weights import Program

ROWS, LENGTH = 3, 9  # the batch, and the tokens of each row
MANY = 15  # rows in training: so many tokens that hardly an expert is chosen by none of them
RAGGED = (2, 5, 3)  # each row's own tokens in the ragged prefill
LOUD = 30.0  # how much larger streams and gains are where a clamp or a cap is to be felt
LAYER = 3  # of a block alone: a pass that took its tensors from the first would not be noticed


@dataclass(frozen=True)
class Call:
    """One call: these tokens of each of the first rows, at these positions [B, T]."""

    phase: str
    tokens: slice
    positions: Any

    def of(self, values: Any) -> Any:
        """What the call is given of values [B, T, ...]."""
        return values[: len(self.positions), self.tokens]


@dataclass(frozen=True)
class Scenario:
    """Calls one after the other on one cache, or in training on none."""

    name: str
    calls: tuple[Call, ...]

    @property
    def cached(self) -> bool:
        return self.calls[0].phase != "train"


def scenarios() -> Iterator[Scenario]:
    """Training, prefill, chunked prefill, prefill then decode, decode from empty, ragged rows."""

    def call(phase: str, start: int, stop: int, rows: int = ROWS) -> Call:
        return Call(phase, slice(start, stop), np.tile(np.arange(start, stop), (rows, 1)))

    def steps(start: int, stop: int) -> list[Call]:
        return [call("decode", i, i + 1) for i in range(start, stop)]

    yield Scenario("train", (call("train", 0, LENGTH, MANY),))
    yield Scenario("prefill", (call("prefill", 0, LENGTH),))
    chunks = call("prefill", 0, 3), call("prefill", 3, 4), call("prefill", 4, LENGTH)
    yield Scenario("chunked prefill", chunks)
    several = call("decode", 5, 5 + DECODED.probe)  # new tokens of a row at once
    steps_behind = steps(5 + DECODED.probe, LENGTH)
    yield Scenario("prefill and decode", (call("prefill", 0, 5), several, *steps_behind))
    yield Scenario("decode from empty", tuple(steps(0, 3)))
    first = max(RAGGED)
    lengths = np.array(RAGGED)[:, None]
    chunk = Call("prefill", slice(first, first + 3), lengths + np.arange(3))
    ragged = [
        Call("decode", slice(i, i + 1), lengths + (i - first)) for i in range(first + 3, LENGTH)
    ]
    yield Scenario("ragged", (call("prefill", 0, first), chunk, *ragged))


@dataclass(frozen=True)
class Checkpoint:
    """Random tensors by name, the same for every graph that reads them."""

    seed: int
    scale: float = 1.0
    """Of gains and biases."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> Any:
        draw = np.random.default_rng((self.seed, zlib.crc32(name.encode())))
        if len(shape) == 1:  # a gain, or a bias, which must not choose all experts by itself
            return self.scale * (1 + 0.05 * draw.standard_normal(shape))
        return draw.standard_normal(shape) / np.sqrt(shape[-1])


@dataclass
class Twin:
    """A run of blocks, evaluated from random inputs; its blocks must not change any more."""

    blocks: dict[str, Block]
    runs: tuple[tuple[str, int], ...]
    seed: int = 0
    scale: float = 1.0
    """Of the stream, and of gains and biases."""
    draft: tuple[tuple[str, int], ...] = ()
    """Runs after the others, of the same tokens and of what the last of those was given."""
    results: Results = field(default_factory=Results)
    _params: dict[tuple[str, int], dict[str, Numbers]] = field(default_factory=dict)
    _ready: dict[int, Evaluation] = field(default_factory=dict)
    _returned: dict[str, list[list[Any]]] = field(default_factory=dict)

    @classmethod
    def of_model(cls, model: Model, seed: int = 0) -> Twin:
        """The whole model, each entry of its schedule repeated at most twice."""
        runs, draft = model.runs(at_most=2), model.draft_runs(at_most=2)
        return cls(model.blocks, tuple(runs), seed, draft=tuple(draft))

    @classmethod
    def of_block(cls, block: Block, seed: int = 0) -> Twin:
        """One layer alone, from a random stream."""
        return cls({block.name: block}, ((block.name, LAYER),), seed)

    @cached_property
    def loud(self) -> Twin:
        """The same, from a larger stream and with larger gains."""
        return Twin(self.blocks, self.runs, self.seed, LOUD, self.draft)

    @property
    def every(self) -> tuple[tuple[str, int], ...]:
        """All runs, those of the draft last."""
        return (*self.runs, *self.draft)

    @property
    def block(self) -> Block:
        """The block that runs first."""
        return self.blocks[self.runs[0][0]]

    @property
    def vocabulary(self) -> int:
        """The rows of the smallest table that tokens are looked up in."""
        graph = next(iter(self.block.graphs.values()))
        tables = [
            graph.operands(node)[1].type.sizes("probe")[0]
            for node in graph.nodes()
            if node.op is not None and node.op.name == "embed"
        ]
        return min(tables, default=1)

    def inputs(self) -> dict[str, Any]:
        """Random values of what the first block takes, [MANY, LENGTH, ...] each."""
        graph = next(iter(self.block.graphs.values()))
        draw = np.random.default_rng((self.seed, 1))
        values: dict[str, Any] = {}
        for value in graph.inputs:
            if value.name == "positions":
                continue
            shape = value.type.sizes("probe", B=MANY, T=LENGTH)
            if value.type.dtype == "int64":
                values[value.name] = draw.integers(0, self.vocabulary, shape)
            else:
                values[value.name] = self.scale * draw.standard_normal(shape)
        return values

    def returned(self, scenario: Scenario) -> list[list[Any]]:
        """The results of each call, from the twin's own inputs; computed once."""
        if scenario.name not in self._returned:
            traces = self.trace(scenario, self.inputs())
            calls = zip(traces, scenario.calls, strict=True)
            self._returned[scenario.name] = [self.outputs(t, call.phase) for t, call in calls]
        return self._returned[scenario.name]

    def whole(self, scenario: Scenario) -> list[Any]:
        """The results of one full pass for each row of a scenario, [MANY, LENGTH, ...]."""
        inputs = {name: value.copy() for name, value in self.inputs().items()}
        rows = np.arange(ROWS)[:, None]
        for name, value in self.inputs().items():
            for call in scenario.calls:  # a later token takes the place of padding
                inputs[name][rows, call.positions] = call.of(value)
        full = next(s for s in scenarios() if not s.cached)
        (trace,) = self.trace(full, inputs)
        return self.outputs(trace, full.calls[0].phase)

    def trace(self, scenario: Scenario, inputs: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """All values by name, of each run of each call."""
        state = [self._empty(name) if scenario.cached else None for name, _ in self.every]
        traces = []
        for call in scenario.calls:
            stream = [Numbers(call.of(value)) for value in inputs.values()]
            positions = Numbers(call.positions)
            trace = []
            for i, (name, layer) in enumerate(self.every):
                if i == len(self.runs) - 1:
                    hidden = stream
                elif i == len(self.runs):
                    stream = [Numbers(call.of(inputs["tokens"])), *hidden]
                evaluate = self._evaluation(self.blocks[name].graph(call.phase))
                given = dict(zip(evaluate.takes, stream, strict=True)) | {"positions": positions}
                params = self.params(name, layer)
                values, after = evaluate.run(given, params, state[i], self.results)
                state[i] = after if scenario.cached else None
                stream = [values[value] for value in evaluate.returns]
                trace.append(arrays(values))
            traces.append(trace)
        return traces

    def params(self, name: str, layer: int) -> dict[str, Numbers]:
        if (name, layer) not in self._params:
            self._params[name, layer] = {
                key: self._param(param.program, layer)
                for key, param in self.blocks[name].params.items()
            }
        return self._params[name, layer]

    def _param(self, program: Program, layer: int) -> Numbers:
        key = program, layer, self.seed
        read = Checkpoint(self.seed, self.scale)
        found = self.results.get(key)
        if found is None:
            made = program.evaluate("probe", read, {"layer": layer})
            found = self.results.keep(key, (made,))
        return found[0]

    def outputs(self, trace: Sequence[dict[str, Any]], phase: str) -> list[Any]:
        """What the last run returned, and the last of the draft."""
        last = [(self.runs, len(self.runs) - 1), (self.draft, -1)]
        return [
            trace[at][value.name]
            for runs, at in last
            for name, _ in runs[-1:]
            for value in self.blocks[name].graph(phase).outputs
        ]

    def _evaluation(self, graph: Graph) -> Evaluation:
        if id(graph) not in self._ready:  # the blocks keep it
            self._ready[id(graph)] = Evaluation.of(graph, "probe")
        return self._ready[id(graph)]

    def _empty(self, name: str) -> dict[str, Numbers]:
        """Caches with every slot unwritten: NaN, which no result may depend on."""
        caches = self.blocks[name].caches
        # A block without caches still has a state, or it would be evaluated as in training.
        return {cache: _unwritten(rows) for cache, rows in caches.items()}


def _unwritten(rows: TensorType) -> Numbers:
    return Numbers(np.full(rows.sizes("probe", B=ROWS, S=LENGTH), np.nan))
