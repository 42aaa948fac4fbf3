"""A model's rules, each broken once; phases that split and merge; counting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.count import cache_bytes, parameters
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.model import Block, Model, Param, verify, verify_block
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_block, print_model
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ir.weights import Ref
from archsmith.compiler.plugins import Registry

TEXT = """
model "small" : bfloat16
schedule embed, layer * 3, head

block embed
  param %table = ref("embed", (100~7, 8~3)) : bfloat16[100~7, 8~3]
  graph train, prefill, decode
    %tokens = input : int64[B, T]
    %positions = input : int64[B, T]
    %x = embed(%tokens, %table) : bfloat16[B, T, 8~3]
    return %x

block layer
  param %w = ref("layers.{layer}.w", (8~3)) : float32[8~3]
  cache rows : bfloat16[B, S, 8~3]
  graph train, prefill, decode
    %x = input : bfloat16[B, T, 8~3]
    %positions = input : int64[B, T]
    %rows = cached(%x, %positions, cache="rows") : bfloat16[B, S, 8~3]
    %h = rms_norm(%x, %w, eps=1e-06) : bfloat16[B, T, 8~3]
    %y = add(%x, %h) : bfloat16[B, T, 8~3]
    return %y

block head
  param %table = ref("head", (100~7, 8~3)) : bfloat16[100~7, 8~3]
  graph train, prefill, decode
    %x = input : bfloat16[B, T, 8~3]
    %positions = input : int64[B, T]
    %logits = einsum(%x, %table, equation="btd,vd->btv") : bfloat16[B, T, 100~7]
    return %logits
"""


@pytest.fixture
def model(registry: Registry) -> Model:
    return parse_model(TEXT, registry.ops)


def no_parameter(model: Model) -> None:
    del model.blocks["layer"].params["w"]


def another_program(model: Model) -> None:
    model.blocks["layer"].params["w"] = Param(Ref("w", (Dim(9, 3),)), "float32")


def unread_parameter(model: Model) -> None:
    model.blocks["layer"].params["v"] = Param(Ref("v", (Dim(8, 3),)), "float32")


def no_cache(model: Model) -> None:
    del model.blocks["layer"].caches["rows"]


def unwritten_cache(model: Model) -> None:
    model.blocks["layer"].caches["more"] = TensorType("float32", ("B", "S"))


def another_row(model: Model) -> None:
    model.blocks["layer"].caches["rows"] = TensorType("float32", ("B", "S", Dim(8, 3)))


def missing_phase(model: Model) -> None:
    graphs = model.blocks["layer"].graphs
    model.blocks["layer"].graphs = {("train", "prefill"): next(iter(graphs.values()))}


def phase_twice(model: Model) -> None:
    (graph,) = model.blocks["layer"].graphs.values()
    model.blocks["layer"].graphs[("decode",)] = graph


def phases_that_return_another_type(model: Model) -> None:
    block = model.blocks["layer"]
    block.split(["decode"])
    graph = block.graphs[("decode",)]
    graph.outputs = (graph.value("rows"),)


def returns_nothing(model: Model) -> None:
    (graph,) = model.blocks["layer"].graphs.values()
    graph.outputs = ()


def another_type_than_the_op_gives(model: Model) -> None:
    (graph,) = model.blocks["layer"].graphs.values()
    node = graph.node("h")
    wrong = tuple(replace(v, type=v.type.wide) for v in node.results)
    graph._nx.nodes["h"]["node"] = replace(node, results=wrong)


def no_such_block(model: Model) -> None:
    model.schedule = (("embed", 1), ("other", 1))


def another_stream(model: Model) -> None:
    model.schedule = (("embed", 1), ("head", 1), ("layer", 1))


def repeated_but_not_a_layer(model: Model) -> None:
    model.schedule = (("embed", 1), ("layer", 1), ("head", 2))


BREAKS: dict[Callable[[Model], None], str] = {
    no_parameter: r"block layer: train/prefill/decode: %w is no parameter of the block",
    another_program: r"block layer: .*%w is float32\[8~3\], its program float32\[9~3\]",
    unread_parameter: "block layer: parameter %v is read by no phase",
    no_cache: "block layer: .*cache rows None",
    unwritten_cache: "block layer: .*writes caches rows; the block has rows, more",
    another_row: "block layer: .*%rows is bfloat16",
    missing_phase: "block layer: has graphs for train, prefill; it needs train, prefill, decode",
    phase_twice: "block layer: has graphs for train, prefill, decode, decode",
    phases_that_return_another_type: "block layer: its phases take or return different values",
    returns_nothing: "block layer: .*returns nothing",
    another_type_than_the_op_gives: "block layer: .*%h is not of the type that rms_norm gives",
    no_such_block: "the schedule runs other, which is no block",
    another_stream: r"block layer takes bfloat16\[B, T, 8~3\], but is given bfloat16\[B, T, 100~7",
    repeated_but_not_a_layer: "block head is repeated, but does not return what it takes",
}


def test_the_model_is_right(model: Model) -> None:
    verify(model)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda rule: rule.__name__)
def test_every_rule_is_checked(model: Model, broken: Callable[[Model], None]) -> None:
    broken(model)
    with pytest.raises(GraphError, match=BREAKS[broken]):
        verify(model)


def unused(model: Model) -> None:
    model.blocks["layer"].unused = ("layers.{layer}.v",)


TOLD = {"name": "other", "dtype": "float32", "droppable": ("v",), "draft": ("head",)}
CHANGES: list[Callable[[Model], None]] = [
    *(no_parameter, another_program, unread_parameter, no_cache, unwritten_cache, another_row),
    *(missing_phase, phase_twice, returns_nothing, no_such_block, another_stream, unused),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_state_is_what_the_text_says(model: Model, change: Callable[[Model], None]) -> None:
    before, text, same = model.state(), print_model(model), model.copy()
    change(model)
    assert print_model(model) != text
    assert model.state() != before
    assert same.state() == before


@pytest.mark.parametrize("attribute", TOLD)
def test_a_state_has_what_is_no_blocks(model: Model, attribute: str) -> None:
    before, text = model.state(), print_model(model)
    setattr(model, attribute, TOLD[attribute])
    assert print_model(model) != text
    assert model.state() != before


def test_phases_split_and_merge(model: Model, registry: Registry) -> None:
    block = model.blocks["layer"]
    before = print_block(block)
    block.split(["decode"])
    assert list(block.graphs) == [("train", "prefill"), ("decode",)]
    assert block.graph("train") is block.graph("prefill")
    assert block.graph("decode") is not block.graph("train")
    verify_block(block)
    block.merge()
    assert print_block(block) == before
    block.split(["prefill"])
    graph = block.graph("prefill")
    (out,) = graph.outputs
    graph.outputs = graph.add(registry.ops["scale"](factor=2.0), out)
    block.merge()
    assert list(block.graphs) == [("train", "decode"), ("prefill",)]
    verify_block(block)


def test_a_copy_is_independent(model: Model) -> None:
    copy, before = model.copy(), print_block(model.blocks["layer"])
    unread_parameter(copy)
    unwritten_cache(copy)
    copy.blocks["layer"].split(["decode"])
    copy.blocks["layer"].graph("train").rename("h", "g")
    copy.blocks["layer"].graph("decode").rename("y", "z")
    assert print_block(model.blocks["layer"]) == before


def test_runs_count_layers(model: Model) -> None:
    layers = [("layer", i) for i in range(3)]
    assert list(model.runs()) == [("embed", 0), *layers, ("head", 0)]
    assert list(model.runs(at_most=1)) == [("embed", 0), ("layer", 0), ("head", 0)]
    assert model.layers == 3
    assert model.shallow(2).layers == 2


def test_counting(model: Model) -> None:
    assert parameters(model) == 100 * 8 + 3 * 8 + 100 * 8
    assert cache_bytes(model) == 3 * 8 * 2
    tied = Param(Ref("embed", (Dim(100, 7), Dim(8, 3))), "bfloat16")
    model.blocks["head"].params["table"] = tied
    assert parameters(model) == 100 * 8 + 3 * 8


def test_drop_unread_orders_parameters_by_use(model: Model) -> None:
    block: Block = model.blocks["layer"]
    block.params = {"v": block.params["w"], **block.params}
    block.drop_unread()
    assert list(block.params) == ["w"]
