"""Random attention blocks whose keys and values are made of latents as no component makes them."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from archsmith.compiler.ir.build import Build
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.graph import Graph, Value
from archsmith.compiler.ir.model import PHASES, Block, Model, Param, verify
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ir.weights import Ref
from hypothesis import strategies as st

WIDE = Dim(768, 11)
LATENTS = Dim(24, 5), Dim(20, 7)
GROUPS = Dim(8, 2)
SIZES = Dim(64, 3), Dim(48, 4), Dim(40, 2)
TURNED = Dim(16, 6)


class Latents:
    """One block in the making: `draw` decides what its keys and values are made of, and how."""

    def __init__(self, draw: st.DrawFn, ops: Mapping[str, type[Op]]) -> None:
        self.draw = draw
        self.graph, self.block = Graph(), Block("b")
        self.op = Build(self.graph, ops)
        self.x = self.graph.input("x", TensorType("float32", ("B", "T", WIDE)))
        self.positions = self.graph.input("positions", TensorType("int64", ("B", "T")))
        self.sinks = draw(st.booleans())
        self.softcap = draw(st.sampled_from([None, None, 2.0]))
        self.key_bias = self.value_bias = False

    def model(self) -> Model:
        latents = [self._latent(size) for size in LATENTS]
        latents = self.draw(st.sampled_from([latents[:1], latents]))
        k, self.key_bias = self._joined(latents, turned=self.draw(st.booleans()))
        v, self.value_bias = self._joined(latents[-1:], turned=False)
        if self.draw(st.sampled_from([False, False, False, True])):
            v, self.value_bias = k, self.key_bias
        heads = GROUPS * self.draw(st.sampled_from([Dim.of(1), Dim(2, 3)]))
        q = self._product(self.x, heads, k.type.row[-1])
        given = [q, self._cached(k, "k"), self._cached(v, "v"), self.positions]
        if self.sinks:
            given.append(self._weight("sinks", heads))
        out = self.op.attend(*given, scale=0.3, softcap=self.softcap, name="out")
        weight = self._weight("o", WIDE, heads, out.type.row[-1])
        self.graph.outputs = (self.op.einsum(out, weight, equation="bthv,dhv->btd", name="y"),)
        self.graph.prune()
        self.block.graphs = {PHASES: self.graph}
        self.block.drop_unread()
        model = Model("block", "float32", {"b": self.block}, (("b", 1),))
        verify(model)
        return model

    @property
    def absorbed(self) -> bool:
        """Whether it can be: a bias is lost where weights of slots do not add up to one."""
        lost = self.sinks or (self.key_bias and self.softcap is not None)
        return not (lost and (self.key_bias or self.value_bias))

    def _latent(self, size: Dim) -> Value:
        down = self._weight("down", size, WIDE)
        latent: Value = self.op.einsum(self.x, down, equation="btd,fd->btf", name="latent")
        if self.draw(st.booleans()):
            latent = self.op.rms_norm(latent, self._weight("norm", size), eps=1e-6, name="latent")
        return latent

    def _joined(self, latents: Sequence[Value], turned: bool) -> tuple[Value, bool]:
        """Columns of each latent, and perhaps a row that positions turn and all heads share."""
        sizes = self.draw(st.lists(st.sampled_from(SIZES), min_size=len(latents), max_size=3))
        made = [self._columns(latents[i % len(latents)], size) for i, size in enumerate(sizes)]
        values, biases = [value for value, _ in made], any(bias for _, bias in made)
        if turned:
            row = self.op.einsum(self.x, self._weight("turn", TURNED, WIDE), equation="btd,fd->btf")
            cos, sin = self.op.rotations(
                self.positions, width=TURNED, theta=100.0, dtype="float32", name=("cos", "sin")
            )
            row = self.op.rope(row, cos, sin, interleaved=False, name="turned")
            values.insert(self.draw(st.integers(0, len(values))), self.op.expand(row, count=GROUPS))
        value = self.op.concat(*values) if len(values) > 1 else values[0]
        if self.draw(st.sampled_from([False, False, True])):
            value = self.op.scale(value, factor=0.5)
        return value, biases

    def _columns(self, latent: Value, size: Dim) -> tuple[Value, bool]:
        """[B, T, GROUPS, size] of a latent, and whether there is a bias in it."""
        other = SIZES[0]
        how = self.draw(
            st.sampled_from(
                ["plain", "flat", "part", "flat part", "sum", "chain", "bias", "biases"]
            )
        )
        if how == "flat":
            flat = self._product(latent, GROUPS * size)
            return self.op.unflatten(flat, sizes=(GROUPS, size)), False
        if how == "part":
            both = self._product(latent, GROUPS, size + other)
            index = self.draw(st.integers(0, 1))
            sizes = (size, other) if index == 0 else (other, size)
            return self.op.split(both, sizes=sizes, name=("one", "two"))[index], False
        if how == "flat part":
            both = self._product(latent, GROUPS * size + GROUPS * other)
            sizes = (GROUPS * other, GROUPS * size)
            flat = self.op.split(both, sizes=sizes, name=("one", "two"))[1]
            return self.op.unflatten(flat, sizes=(GROUPS, size)), False
        if how == "sum":
            products = self._product(latent, GROUPS, size), self._product(latent, GROUPS, size)
            return self.op.add(*products), False
        if how == "chain":
            return self._product(self._product(latent, Dim(96, 6)), GROUPS, size), False
        if how == "bias":
            bias = self._weight("bias", *self.draw(st.sampled_from([(GROUPS, size), (size,)])))
            return self.op.add(self._product(latent, GROUPS, size), bias), True
        if how == "biases":
            flat = self.op.add(
                self._product(latent, GROUPS * size), self._weight("bias", GROUPS * size)
            )
            return self.op.unflatten(flat, sizes=(GROUPS, size)), True
        return self._product(latent, GROUPS, size), False

    def _product(self, row: Value, *axes: Dim) -> Value:
        """A row times a weight, in letters, an order of axes and of operands as drawn."""
        letters = self.draw(st.permutations(string.ascii_lowercase))
        b, t, c, *made = letters[: 3 + len(axes)]
        sizes = {c: row.type.row[0], **dict(zip(made, axes, strict=True))}
        order = self.draw(st.permutations([c, *made]))
        weight = self._weight("w", *(sizes[letter] for letter in order))
        terms = [(row, f"{b}{t}{c}"), (weight, "".join(order))]
        if self.draw(st.booleans()):
            terms.reverse()
        equation = f"{terms[0][1]},{terms[1][1]}->{b}{t}{''.join(made)}"
        product: Value = self.op.einsum(terms[0][0], terms[1][0], equation=equation)
        return product

    def _cached(self, value: Value, name: str) -> Value:
        rows: Value = self.op.cached(value, self.positions, cache=name, name=name)
        self.block.caches[name] = rows.type
        return rows

    def _weight(self, stem: str, *shape: Dim) -> Value:
        name = self.graph.fresh(stem)
        self.block.params[name] = Param(Ref(name, shape), "float32")
        return self.graph.param(name, TensorType("float32", shape))
