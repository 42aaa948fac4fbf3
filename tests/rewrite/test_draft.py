"""The checker sees a draft: of a pass that changes a whole model, and the weights of its layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.check import Differs, prove_model
from archsmith.compiler.rewrite.twin import Twin, scenarios
from archsmith.compiler.spec.schema import Draft

PAGE = Path(__file__).parents[2] / "examples" / "tiny-deepseek-v3.yaml"


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    registry = Registry.installed()
    return Compiler(registry, registry.targets["cpu"], numeric=False)


@pytest.fixture(scope="module")
def model(compiler: Compiler) -> Model:
    spec = compiler.load(PAGE)
    return compiler.build(spec.model_copy(update={"mtp": Draft(block="sparse", norm="rms")}))


@pytest.mark.parametrize(
    ("old", "new", "block", "value"),
    [
        ("concat(%h, %h_2)", "concat(%h_2, %h)", "draft_embed", "joined"),
        ("{layer}.shared_head.norm", "{layer}.enorm", "draft_norm", "h"),
        ("draft draft_embed, sparse", "draft draft_embed, dense", "dense", None),
    ],
)
def test_what_differs_in_a_draft_alone_is_found(
    old: str, new: str, block: str, value: str | None, model: Model, compiler: Compiler
) -> None:
    text = print_model(model)
    assert text.count(old) == 1
    other = parse_model(text.replace(old, new), compiler.registry.ops)
    with pytest.raises(Differs) as found:
        prove_model(model, other)
    if value is not None:
        assert (found.value.block, found.value.value) == (block, value)


def test_its_layer_has_weights_and_a_cache_of_its_own(model: Model) -> None:
    twin = Twin.of_model(model)
    layers = [layer for name, layer in twin.every if name == "sparse"]
    assert layers == [1, 2, 3]
    first, last = (twin.params("sparse", layer)["q_a"].array for layer in (2, 3))
    assert first.shape == last.shape
    assert (first != last).any()
    results = {s.name: twin.returned(s) for s in scenarios()}
    for scenario in results.values():
        assert all(len(outputs) == 2 for outputs in scenario)
    (train,), (prefill,) = results["train"], results["prefill"]
    assert train[0].shape == train[1].shape
    for full, cached in zip(train, prefill, strict=True):
        assert abs(full[: len(cached)] - cached).max() < 1e-12
