"""A model with a draft: its text, its runs, its counts, and what is no draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.count import active_parameters, cache_bytes, parameters
from archsmith.compiler.ir.model import Model, verify
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.schema import Draft

EXAMPLES = Path(__file__).parents[2] / "examples"
DRAFT = ("draft_embed", "sparse", "draft_norm", "head")


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    registry = Registry.installed()
    return Compiler(registry, registry.targets["cpu"], numeric=False)


@pytest.fixture
def model(compiler: Compiler) -> Model:
    return built(compiler, "tiny-deepseek-v3", "sparse")


def built(compiler: Compiler, example: str, block: str) -> Model:
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    return compiler.build(spec.model_copy(update={"mtp": Draft(block=block, norm="rms")}))


@pytest.mark.parametrize("pipeline", ["O0", "O2"])
def test_its_text_reads_back(pipeline: str, model: Model, compiler: Compiler) -> None:
    model, _ = compiler.rewrite(model, compiler.passes(pipeline)[1])
    text = print_model(model)
    assert "\ndraft draft_embed, sparse, draft_norm, head\n" in text
    again = parse_model(text, compiler.registry.ops)
    verify(again)
    assert again.draft == DRAFT
    assert print_model(again) == text


def test_its_layer_is_the_one_past_the_last(model: Model) -> None:
    assert model.layers == 3
    assert model.schedule[-3:] == (("sparse", 2), ("final_norm", 1), ("head", 1))
    assert list(model.draft_runs()) == [(name, 3) for name in DRAFT]
    assert list(model.draft_runs(at_most=1)) == [(name, 2) for name in DRAFT]
    assert model.droppable == ("*.rotary_emb.inv_freq",)


def test_counts_of_weights_have_it_and_those_of_calls_have_not(
    model: Model, compiler: Compiler
) -> None:
    plain = compiler.build(compiler.load(EXAMPLES / "tiny-deepseek-v3.yaml"))
    assert plain.draft == ()
    layers = {}
    for repeat in (2, 3):
        other = replace(plain, schedule=(*plain.schedule[:2], ("sparse", repeat), ("head", 1)))
        layers[repeat] = parameters(other)
    width = 80
    around = 2 * width * width + 3 * width
    assert parameters(model) == layers[3] + around
    assert active_parameters(model) == active_parameters(plain)
    assert cache_bytes(model) == cache_bytes(plain)


def another_order(model: Model) -> None:
    model.draft = ("sparse", "draft_embed", "draft_norm", "head")


def two_layers(model: Model) -> None:
    model.draft = ("draft_embed", "sparse", "sparse", "draft_norm", "head")


def no_final_norm(model: Model) -> None:
    model.schedule = (("embed", 1), ("final_norm", 1), ("sparse", 1), ("head", 1))


def no_such_block(model: Model) -> None:
    model.draft = ("draft_embed", "other", "draft_norm", "head")


def another_stream(model: Model) -> None:
    for graph in model.blocks["draft_embed"].graphs.values():
        graph.outputs = (graph.value("joined"),)
    model.blocks["draft_embed"].drop_unread()


BREAKS: dict[Callable[[Model], None], str] = {
    another_order: "a draft is draft_embed, a layer, draft_norm, head",
    two_layers: "a draft is draft_embed, a layer, draft_norm, head",
    no_final_norm: "a model with a draft ends in final_norm, head",
    no_such_block: "the schedule runs other, which is no block",
    another_stream: r"block sparse takes float32\[B, T, 80~\d+\], but is given float32\[B, T, 160~",
}


@pytest.mark.parametrize("break_", BREAKS, ids=lambda break_: break_.__name__)
def test_what_is_no_draft(break_: Callable[[Model], None], model: Model) -> None:
    break_(model)
    with pytest.raises(GraphError, match=BREAKS[break_]):
        verify(model)


def test_a_window_is_refused(compiler: Compiler) -> None:
    with pytest.raises(GraphError, match="a model with mtp has no windows, as block layer has"):
        built(compiler, "tiny-mixtral", "layer")
