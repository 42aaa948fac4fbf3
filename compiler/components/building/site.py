"""A site: where in a block a component builds, with its sizes, its weights' names and the ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from ...errors import GraphError
from ...ir.build import Build
from ...ir.dims import Dim, product
from ...ir.graph import Graph, Value
from ...ir.model import Block, Param
from ...ir.op import Op
from ...ir.types import TensorType
from ...ir.weights import Each, Program, Ref, Unflatten
from ...spec.fields import identifier
from ...spec.schema import Spec
from ..component import Component
from .probes import Probes

LAYER = "model.layers.{layer}."


@dataclass(frozen=True)
class Building:
    """What all sites of one spec share."""

    spec: Spec
    ops: Mapping[str, type[Op]]
    probes: Probes
    tensors: Mapping[str, str]
    """Role, such as `mla.kv_b`, -> tensor name; a family's own, before the components'."""


@dataclass(frozen=True)
class Site:
    """A place in a block for one use of a part."""

    building: Building
    block: Block
    graph: Graph
    positions: Value
    part: str
    prefix: str = ""
    """What the roles and the parameters of a part within a part begin with."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Role -> tensor name, where it is not the part's own."""
    result: str = "h"
    """What a part within a part calls its result."""

    @property
    def component(self) -> Component:
        component = self.building.spec.parts[self.part]
        assert isinstance(component, Component)  # kinds are components
        return component

    @property
    def op(self) -> Build:
        return Build(self.graph, self.building.ops)

    @property
    def dtype(self) -> str:
        return self.building.spec.dtype

    @property
    def hidden(self) -> Dim:
        return self.building.probes.dim("hidden_size", self.building.spec.hidden_size)

    def dim(self, field: str) -> Dim:
        """The Dim of a field of this part; dotted where it is nested (`router.groups`)."""
        return self.building.probes.dim(field, self.component.sizes()[field])

    def weight(
        self,
        role: str,
        *shape: Dim,
        heads: tuple[int, tuple[Dim, ...]] | None = None,
        each: tuple[str, Dim] | None = None,
        wide: bool = False,
    ) -> Value:
        """A parameter of this part: the checkpoint's tensor for `role`, of this shape.

        `heads` unflattens one axis of it, `each` makes a family over an index, and a `wide`
        parameter is held in float32 at least.
        """
        program: Program = Ref(self._tensor(role), shape)
        if heads is not None:
            program = Unflatten(program, *heads)
        if each is not None:
            program = Each(program, *each)
        name = (self.prefix + role).removesuffix(".weight").replace(".", "_")
        return self.declare(name, program, wide)

    def declare(self, name: str, program: Program, wide: bool = False) -> Value:
        """A parameter with a program of its own; its name is made unique in the block."""
        type = TensorType(self.dtype, program.shape)
        param = Param(program, type.wide.dtype if wide else type.dtype)
        name = self.graph.fresh(name, self.block.params)
        self.block.params[name] = param
        return self.graph.param(name, param.type)

    def linear(
        self, x: Value, role: str, width: Dim, *, bias: bool = False, name: str = ""
    ) -> Value:
        """x [B, T, D] -> [B, T, width]."""
        weight = self.weight(role, width, *x.type.row)
        return self._product(x, weight, "btd,fd->btf", name, role if bias else "")

    def heads(
        self,
        x: Value,
        role: str,
        heads: Dim,
        width: Dim,
        *,
        bias: bool = False,
        name: str = "",
    ) -> Value:
        """x [B, T, D] -> [B, T, heads, width]."""
        weight = self.weight(role, heads * width, *x.type.row, heads=(0, (heads, width)))
        return self._product(x, weight, "btd,hkd->bthk", name, role if bias else "")

    def merge(self, x: Value, role: str, *, bias: bool = False, name: str = "") -> Value:
        """x [B, T, H, K] -> [B, T, hidden]."""
        heads, width = x.type.row
        weight = self.weight(role, self.hidden, heads * width, heads=(1, (heads, width)))
        return self._product(x, weight, "bthk,dhk->btd", name, role if bias else "")

    def cached(self, x: Value, name: str) -> Value:
        """The rows of the whole context of x [B, T, ...], kept in a cache of that name."""
        cache = name
        while cache in self.block.caches:
            cache = f"{identifier(self.part)}_{cache}"
        rows: Value = self.op.cached(x, self.positions, cache=cache, name=name)
        self.block.caches[cache] = rows.type
        return rows

    def within(self, part: str, role: str, name: str) -> Site:
        """A site for another part whose weights are this part's `role`: the norm of a latent."""
        roles = {"weight": self._tensor(role), "bias": _beside(self._tensor(role), "bias")}
        prefix = f"{self.prefix}{role}."
        return replace(self, part=part, prefix=prefix, roles=roles, result=name)

    def apply(self, part: str, role: str, x: Value, *, name: str = "h") -> Value:
        """Build another part on x, with its weights at this part's `role`."""
        site = self.within(part, role, name)
        return site.component.build(site, x)

    def _product(self, x: Value, weight: Value, equation: str, name: str, biased: str) -> Value:
        """x times a weight, and plus the bias that belongs to the role `biased`, if one does."""
        named = {"name": name} if name else {}
        if not biased:
            y: Value = self.op.einsum(x, weight, equation=equation, **named)
            return y
        y = self.op.einsum(x, weight, equation=equation)
        row = y.type.row
        heads = (0, row) if len(row) > 1 else None
        bias = self.weight(f"{biased}_bias", product(row), heads=heads)
        total: Value = self.op.add(y, bias, **named)
        return total

    def _tensor(self, role: str) -> str:
        """The checkpoint's name for a role of this part, another where that is taken."""
        if role in self.roles:
            name = self.roles[role]
        else:
            key = f"{self.component.kind}.{role}"
            name = self.building.tensors.get(key) or self._default(role)
        taken = {r.name for p in self.block.params.values() for r in p.program.refs()}
        if name not in taken:
            return name
        if LAYER not in name:
            raise GraphError(f"{self.part}: two weights of the block are called {name}")
        for use in count(1):
            part = identifier(self.part)
            place = f"{part}." if use == 1 else f"{part}_{use}."
            other = name.replace(LAYER, LAYER + place, 1)
            if other not in taken:
                break
        return other

    def _default(self, role: str) -> str:
        names = self.component.tensors
        if role not in names:
            return f"{LAYER}{identifier(self.part)}.{role}"
        return LAYER + names[role]


def _beside(tensor: str, what: str) -> str:
    return f"{tensor.removesuffix('.weight')}.{what}"
