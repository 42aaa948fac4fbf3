"""Growth: random well-typed models made op by op, with weight programs of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.build import Build
from archsmith.compiler.ir.dims import ONE, TWO, Dim
from archsmith.compiler.ir.graph import Graph, Value
from archsmith.compiler.ir.model import EMBED, HEAD, PHASES, Block, Model, Param, verify
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.pick import Pick
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ir.weights import (
    Concat,
    Each,
    Flatten,
    Program,
    Ref,
    Shape,
    Slice,
    Stack,
    Transpose,
    Unflatten,
)
from growth_experts import INNER, ExpertSteps
from hypothesis import strategies as st

HEADS, WIDTH = Dim(6, 2), Dim(10, 6)  # the stream is [B, T, HEADS * WIDTH]
GROUPS = Dim(3, 2)
VOCABULARY = Dim(91, 11)
HIDDEN = HEADS * WIDTH


class Growth(ExpertSteps):
    """One model in the making: `draw` decides, every op that is appended is well typed."""

    def __init__(self, draw: st.DrawFn, ops: Mapping[str, type[Op]]) -> None:
        self.draw, self.ops = draw, ops
        self.dtype = draw(st.sampled_from(["bfloat16", "float32", "float64"]))
        self.block, self.graph = Block(""), Graph()
        self.positions = self.x = Value("x", TensorType(self.dtype, ("B", "T", HIDDEN)))

    def model(self) -> Model:
        """An embedding, one to three blocks in some order, and a head."""
        names = self.draw(st.sampled_from([["a"], ["a", "b"], ["first", "second", "third"]]))
        blocks = {EMBED: self._embed()}
        for name in names:
            blocks[name] = self._block(name)
        blocks[HEAD] = self._head()
        counts = st.integers(1, 3)
        runs = [(name, self.draw(counts)) for name in (*names, names[0]) if name != HEAD]
        droppable = self.draw(st.sampled_from([(), ("model.*.inv_freq",)]))
        schedule = ((EMBED, 1), *runs, (HEAD, 1))
        model = Model("grown", self.dtype, blocks, schedule, droppable)
        verify(model)
        return model

    @property
    def op(self) -> Build:
        return Build(self.graph, self.ops)

    def _start(self, name: str, dtype: str, shape: tuple[Dim | str, ...]) -> Value:
        self.block, self.graph = Block(name), Graph()
        first = self.graph.input("tokens" if name == EMBED else "x", TensorType(dtype, shape))
        self.positions = self.graph.input("positions", TensorType("int64", ("B", "T")))
        return first

    def _finish(self, *outputs: Value) -> Block:
        """Close the graph, with or without what nothing reads."""
        self.graph.outputs = outputs
        if self.draw(st.booleans()):
            self.graph.prune()
        self.block.graphs = {PHASES: self.graph}
        self.block.drop_unread()
        written = {
            node.op.attributes()["cache"]
            for node in self.graph.nodes()
            if node.op is not None and node.op.stateful
        }
        self.block.caches = {n: rows for n, rows in self.block.caches.items() if n in written}
        return self.block

    def _embed(self) -> Block:
        tokens = self._start(EMBED, "int64", ("B", "T"))
        table = self.param("table", (VOCABULARY, HIDDEN))
        return self._finish(self.op.embed(tokens, table, name="x"))

    def _head(self) -> Block:
        x = self._start(HEAD, self.dtype, ("B", "T", HIDDEN))
        table = self.param("table", (VOCABULARY, HIDDEN))
        return self._finish(self.op.einsum(x, table, equation="btd,vd->btv", name="logits"))

    def _block(self, name: str) -> Block:
        """Some steps, each from one or two of the values so far; the last ones are summed."""
        start = self._start(name, self.dtype, ("B", "T", HIDDEN))
        pool = [start]
        others = [op for name, op in self.ops.items() if name not in STEPS]
        growths = (*STEPS.values(), *(_unary(op) for op in others if _takes(op, start.type)))
        for step in self.draw(st.lists(st.sampled_from(growths), min_size=1, max_size=7)):
            self.graph.scope = self.draw(st.sampled_from(["", "attention", "mlp"]))
            self.x = self.draw(st.sampled_from(pool))
            grown = step(self)
            if grown.type == start.type:
                pool.append(grown)
        if self.draw(st.booleans()):
            block = self._finish(self.op.add(pool[0], pool[-1], name="out"))
        else:
            block = self._finish(pool[-1])
        if self.draw(st.booleans()):
            self._specialize(block)
        return block

    def _specialize(self, block: Block) -> None:
        """Give some phases a graph of their own, one op longer."""
        phases = self.draw(st.sampled_from([("decode",), ("train", "prefill")]))
        block.split(phases)
        graph = block.graphs[phases]
        out = self.ops["scale"](factor=0.75)
        graph.outputs = graph.add(out, graph.outputs[0], names=("special",))

    def param(self, stem: str, shape: Shape, *, experts: bool = False) -> Value:
        """A parameter of that shape, by a program of some kind."""
        name = self.graph.fresh(stem, self.block.params)
        tensor = f"model.layers.{{layer}}.{self.block.name}.{name}.weight"
        if experts:
            if self.draw(st.booleans()):
                body: Program = Pick(self._program(tensor, shape), "expert")
            else:
                body = self._program(tensor.replace("weight", "{expert}.weight"), shape[1:])
            family = self.draw(st.sampled_from([Each, Stack]))
            program: Program = family(body, "expert", shape[0])
        else:
            program = self._program(tensor, shape)
        self.block.params[name] = Param(program, self.dtype)
        return self.graph.param(name, self.block.params[name].type)

    def _program(self, tensor: str, shape: Shape) -> Program:
        kinds = ["ref", "transpose", "slice", "concat", "unflatten", "flatten", "stack"]
        kind = self.draw(st.sampled_from(kinds))
        first, rest = shape[0], shape[1:]
        if kind == "transpose":
            order = self.draw(st.permutations(range(len(shape))))
            turned = tuple(shape[order.index(i)] for i in range(len(shape)))
            return Transpose(Ref(tensor, turned), tuple(order))
        if kind == "slice":
            return Slice(Ref(tensor, (first + 3, *rest)), 0, Dim.of(1), first)
        if kind == "concat":
            parts = Ref(f"{tensor}.head", (ONE, *rest)), Ref(f"{tensor}.tail", (first - 1, *rest))
            return Concat(parts, 0)
        if kind == "unflatten" and rest:
            whole = Ref(tensor, (first * rest[0], *rest[1:]))
            return Unflatten(whole, 0, (first, rest[0]))
        if kind == "flatten":
            return Flatten(Ref(tensor, (first, ONE, *rest)), 0)
        if kind == "stack" and rest:
            return Stack(Ref(f"{tensor}.{{part}}", rest), "part", first)
        return Ref(tensor, shape)

    # Steps: each appends one op at least, on `self.x`

    def add(self) -> Value:
        bias = self.draw(st.booleans())
        return self.op.add(self.x, self.param("bias", (HIDDEN,)) if bias else self.x)

    def mul(self) -> Value:
        """A gated MLP, in either order of its factors."""
        up = self.op.einsum(self.x, self.param("up", (INNER, HIDDEN)), equation="btd,fd->btf")
        gate = self.op.einsum(self.x, self.param("gate", (INNER, HIDDEN)), equation="btd,fd->btf")
        gate = self.op.activation(gate, function="silu")
        hidden = self.op.mul(*((gate, up) if self.draw(st.booleans()) else (up, gate)))
        down = self.param("down", (HIDDEN, INNER))
        return self.op.einsum(hidden, down, equation="btf,df->btd")

    def scale(self) -> Value:
        return self.op.scale(self.x, factor=self.draw(st.sampled_from([-0.5, 1.0, 2.0])))

    def softcap(self) -> Value:
        return self.op.softcap(self.x, cap=3.0)

    def clamp(self) -> Value:
        low, high = self.draw(st.sampled_from([(-1.0, None), (None, 0.5), (-0.25, 0.75)]))
        return self.op.clamp(self.x, low=low, high=high)

    def layer_norm(self) -> Value:
        stems = ("norm", "norm_bias")[: self.draw(st.integers(0, 2))]
        weights = [self.param(stem, (HIDDEN,)) for stem in stems]
        return self.op.layer_norm(self.x, *weights, eps=1e-5)

    def sigmoid_gate(self) -> Value:
        """What passes of the stream is for each token to say, of all values or of each."""
        width = self.draw(st.sampled_from([ONE, HIDDEN]))
        weight = self.param("gate", (width, HIDDEN))
        logit = self.op.einsum(self.x, weight, equation="btd,fd->btf")
        return self.op.sigmoid_gate(self.x, logit)

    def activation(self) -> Value:
        functions = ["silu", "gelu", "gelu_tanh", "relu", "relu"]
        y = self.op.activation(self.x, function=self.draw(st.sampled_from(functions)))
        return self.op.mul(y, y) if self.draw(st.booleans()) else y

    def rms_norm(self) -> Value:
        weight = self.param("norm", (HIDDEN,))
        offset = self.draw(st.sampled_from([0.0, 1.0]))
        x = self.op.add(self.x, self.graph.inputs[0]) if self.draw(st.booleans()) else self.x
        return self.op.rms_norm(x, weight, eps=1e-6, offset=offset, name="h")

    def add_rms_norm(self) -> Value:
        weight = self.param("norm", (HIDDEN,))
        total, normed = self.op.add_rms_norm(
            self.x, self.graph.inputs[0], weight, eps=1e-5, name=("total", "h")
        )
        return total if self.draw(st.booleans()) else normed

    def split(self) -> Value:
        """Swap the first head's width with the rest."""
        first, rest = self.op.split(self.x, sizes=(WIDTH, HIDDEN - WIDTH), name=("one", "rest"))
        return self.op.concat(rest, first)

    def unbind(self) -> Value:
        """One of the two halves of each head, in place of both."""
        halves = self.op.unflatten(self.x, sizes=(HEADS, TWO, WIDTH // 2))
        first, second = self.op.unbind(halves, name=("one", "other"))
        kept = second if self.draw(st.booleans()) else self.op.add(first, second)
        return self.op.flatten(self.op.concat(kept, first))

    def rope(self) -> Value:
        scaling = self.draw(st.sampled_from(["none", "linear"]))
        cos, sin = self.op.rotations(
            self.positions,
            width=WIDTH,
            theta=500.0,
            dtype=self.dtype,
            scaling=scaling,
            factor=2.0,
            name=("cos", "sin"),
        )
        heads = self.op.unflatten(self.x, sizes=(HEADS, WIDTH), name="by_head")
        turned = self.op.rope(heads, cos, sin, interleaved=self.draw(st.booleans()))
        return self.op.flatten(turned)

    def expand(self) -> Value:
        wide = self.op.expand(self.x, count=GROUPS)
        return self.op.einsum(wide, self.param("mix", (GROUPS,)), equation="btgd,g->btd")

    def attend(self) -> Value:
        q = self.op.unflatten(self.x, sizes=(HEADS, WIDTH), name="q")
        projection = self.param("k", (GROUPS, WIDTH, HIDDEN))
        k = self.op.einsum(self.x, projection, equation="btd,gkd->btgk", name="k")
        k, v = self._cached(k), self._cached(self.op.scale(k, factor=0.5, name="v"))
        operands = [q, k, v, self.positions]
        if self.draw(st.booleans()):
            operands.append(self.param("sinks", (HEADS,)))
        window = self.draw(st.sampled_from([None, Dim(16, 3)]))
        softcap = self.draw(st.sampled_from([None, 2.0]))
        out = self.op.attend(*operands, scale=0.3, window=window, softcap=softcap)
        return self.op.flatten(out)

    def _cached(self, x: Value) -> Value:
        cache = f"cache_{len(self.block.caches)}"
        rows: Value = self.op.cached(x, self.positions, cache=cache)
        self.block.caches[cache] = rows.type
        return rows

    def zeros(self) -> Value:
        return self.op.add(self.x, self.op.zeros(self.x))


STEPS: Mapping[str, Callable[[Growth], Value]] = {
    step.__name__: step
    for step in (
        *(Growth.add, Growth.mul, Growth.scale, Growth.softcap, Growth.clamp, Growth.activation),
        *(Growth.rms_norm, Growth.add_rms_norm, Growth.split, Growth.unbind, Growth.rope),
        *(Growth.expand, Growth.attend, Growth.experts, Growth.fused_experts),
        *(Growth.shared_experts, Growth.zeros, Growth.layer_norm, Growth.sigmoid_gate),
    )
}


def _takes(op: type[Op], type: TensorType) -> bool:
    """Whether an op makes one value of no more than one of this type; a third party's grow too."""
    if any(f.default is dataclasses.MISSING for f in dataclasses.fields(op)):
        return False
    try:
        return not isinstance(op().infer(type), tuple)
    except (GraphError, TypeError):
        return False


def _unary(op: type[Op]) -> Callable[[Growth], Any]:
    return lambda growth: getattr(growth.op, op.name)(growth.x)
