"""From a spec to a model: the embedding, one block a distinct layer, and the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...errors import GraphError
from ...ir.graph import Graph, Value
from ...ir.model import (
    DRAFT_EMBED,
    DRAFT_NORM,
    EMBED,
    FINAL_NORM,
    HEAD,
    PHASES,
    Block,
    Model,
    verify,
)
from ...ir.op import Op
from ...ir.reach import windows
from ...ir.types import TensorType
from ...ir.weights import Ref
from ...spec.fields import identifier
from ...spec.packed import Packed
from ...spec.schema import Draft, Spec, Step
from .joined import Joined, join
from .packed import unpack
from .probes import Probes
from .site import LAYER, Building, Site

ROLES = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "draft.embed_norm": LAYER + "enorm.weight",
    "draft.hidden_norm": LAYER + "hnorm.weight",
    "draft.proj": LAYER + "eh_proj.weight",
    "draft.norm": LAYER + "shared_head.norm.weight",
    "draft.embed": LAYER + "embed_tokens.weight",
    "draft.head": LAYER + "shared_head.head.weight",
    "norm.0": "model.layers.{layer}.input_layernorm.weight",
    "norm.1": "model.layers.{layer}.post_attention_layernorm.weight",
}
"""The tensors that belong to no part, as Llama calls them; those of a draft as DeepSeek-V3 does."""


def assemble(
    spec: Spec,
    ops: Mapping[str, type[Op]],
    tensors: Mapping[str, str] | None = None,
    droppable: Sequence[str] = (),
    joined: Joined | None = None,
    packed: Mapping[str, Packed] | None = None,
) -> Model:
    """Build the graph of a spec; `tensors` are a family's names for roles, before the default."""
    building = Building(spec, ops, Probes.of(spec), {**ROLES, **(tensors or {})})
    blocks = {EMBED: _embed(building)}
    for name, steps in spec.blocks.items():
        blocks[identifier(name)] = _block(building, identifier(name), steps)
        join(blocks[identifier(name)], joined or {})
        unpack(blocks[identifier(name)], packed or {})
    blocks[HEAD] = _head(building)
    runs = [(EMBED, 1), *((identifier(name), count) for name, count in spec.schedule), (HEAD, 1)]
    draft: tuple[str, ...] = ()
    if spec.mtp is not None:
        blocks |= _draft(building, spec.mtp)
        draft = (DRAFT_EMBED, identifier(spec.mtp.block), DRAFT_NORM, HEAD)
        runs.insert(-1, (FINAL_NORM, 1))
        droppable = [p for p in droppable if "{layers}" not in p]
    used = {*draft, *(name for name, _ in runs)}
    model = Model(
        spec.name,
        spec.dtype,
        {name: block for name, block in blocks.items() if name in used},
        tuple(runs),
        tuple(p.replace("{layers}", str(spec.layer_count)) for p in droppable),
        draft,
    )
    if draft and (short := [name for name, block in model.blocks.items() if windows(block)]):
        raise GraphError(
            f"a model with mtp has no windows, as block {short[0]} has: what a draft adds to the"
            " cache is cut off again, and a window has let go of rows by then"
        )
    verify(model)
    return model


def _embed(building: Building) -> Block:
    block, graph = Block(EMBED), Graph()
    tokens = graph.input("tokens", TensorType("int64", ("B", "T")))
    return _finish(block, graph, _embedded(_site(building, block, graph, ""), tokens))


def _embedded(site: Site, tokens: Value) -> Value:
    spec = site.building.spec
    size = site.building.probes.dim("vocab_size", spec.vocab_size)
    table = site.declare("embed", Ref(site.building.tensors["embed"], (size, site.hidden)))
    x: Value = site.op.embed(tokens, table, name="x")
    if spec.embed is not None and spec.embed.scale is not None:
        x = site.op.scale(x, factor=spec.embed.scale, stored=spec.embed.stored, name="x")
    return x


def _draft(building: Building, draft: Draft) -> dict[str, Block]:
    """What stands around a draft's layer, and the final norm apart from the head.

    h' = eh_proj [norm(embed(t)); norm(h)], for a token t and what the head read before it, h
    (arXiv 2412.19437, equations 21 to 23).
    """
    start, graph = Block(DRAFT_EMBED), Graph()
    tokens = graph.input("tokens", TensorType("int64", ("B", "T")))
    hidden = graph.input("hidden", _stream(building))
    site = _site(building, start, graph, draft.norm)
    both = [
        _apart(site, draft.norm, role, x)
        for role, x in (
            ("draft.embed_norm", _embedded(site, tokens)),
            ("draft.hidden_norm", hidden),
        )
    ]
    joined = site.op.concat(*both, name="joined")
    weight = Ref(building.tensors["draft.proj"], (site.hidden, *joined.type.row))
    proj = site.declare("draft_proj", weight)
    x = site.op.einsum(joined, proj, equation="btd,fd->btf", name="x")
    return {
        FINAL_NORM: _norm_alone(building, FINAL_NORM, building.spec.final_norm, "final_norm"),
        DRAFT_EMBED: _finish(start, graph, x),
        DRAFT_NORM: _norm_alone(building, DRAFT_NORM, draft.norm, "draft.norm"),
    }


def _norm_alone(building: Building, name: str, part: str, role: str) -> Block:
    """A block of one norm."""
    block, graph = Block(name), Graph()
    x = graph.input("x", _stream(building))
    return _finish(block, graph, _apart(_site(building, block, graph, part), part, role, x))


def _apart(site: Site, part: str, role: str, x: Value) -> Value:
    """A norm that belongs to no part; its parameter is called after its role."""
    name = role.replace(".", "_")
    return replace(site, roles={name: site.building.tensors[role]}).apply(part, name, x)


def _head(building: Building) -> Block:
    spec = building.spec
    block, graph = Block(HEAD), Graph()
    h = graph.input("x" if spec.mtp is None else "hidden", _stream(building))
    site = _site(building, block, graph, spec.final_norm)
    if spec.mtp is None:
        h = _apart(site, spec.final_norm, "final_norm", h)
    size = building.probes.dim("vocab_size", spec.vocab_size)
    role = "embed" if spec.head.tied else "head"
    table = site.declare("head", Ref(building.tensors[role], (size, site.hidden)))
    logits = site.op.einsum(h, table, equation="btd,vd->btv", name="logits")
    if spec.head.bias:
        bias = building.tensors["head"].removesuffix(".weight") + ".bias"
        logits = site.op.add(logits, site.declare("head_bias", Ref(bias, (size,))), name="logits")
    if spec.head.scale is not None:
        logits = site.op.scale(logits, factor=spec.head.scale, name="logits")
    if spec.head.softcap is not None:
        logits = site.op.softcap(logits, cap=spec.head.softcap, name="logits")
    return _finish(block, graph, logits)


def _block(building: Building, name: str, steps: Sequence[Step]) -> Block:
    """Residual steps: x = x + scale * post_norm(use(norm(x))), where several `use` are added."""
    block, graph = Block(name), Graph()
    x = graph.input("x", _stream(building))
    for i, step in enumerate(steps):
        uses = step.use
        first = _site(building, block, graph, uses[0])
        h = x
        if step.norm is not None:
            graph.scope = identifier(uses[0])
            h = _norm(building, first, step.norm, f"norm.{i}", x)
        results = []
        for use in uses:
            graph.scope = identifier(use)
            site = replace(first, part=use)
            results.append(site.component.build(site, h))
        y = results[0]
        for other in results[1:]:
            y = first.op.add(y, other, name="y")
        if step.post_norm is not None:
            y = _norm(building, first, step.post_norm, f"post_norm.{i}", y)
        if step.scale is not None:
            y = first.op.scale(y, factor=step.scale, name="y")
        x = first.op.add(x, y, name="x")
    return _finish(block, graph, x)


def _norm(building: Building, site: Site, part: str, role: str, x: Value) -> Value:
    """One norm of a step; its parameter is called after the part that is used."""
    key, _, number = role.partition(".")
    tensor = building.tensors.get(role, f"model.layers.{{layer}}.{key}_{number}.weight")
    name = f"{identifier(site.part)}_{key}"
    return replace(site, roles={name: tensor}).apply(part, name, x)


def _site(building: Building, block: Block, graph: Graph, part: str) -> Site:
    if any(v.name == "positions" for v in graph.inputs):
        positions = graph.value("positions")
    else:
        positions = graph.input("positions", TensorType("int64", ("B", "T")))
    return Site(building, block, graph, positions, part)


def _finish(block: Block, graph: Graph, result: Value) -> Block:
    graph.outputs = (result,)
    block.graphs = {PHASES: graph}
    return block


def _stream(building: Building) -> TensorType:
    size = building.probes.dim("hidden_size", building.spec.hidden_size)
    return TensorType(building.spec.dtype, ("B", "T", size))
