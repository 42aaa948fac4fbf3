"""The examples are what the importer writes for the configurations beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.components.component import Component
from archsmith.compiler.families.config import read_config
from archsmith.compiler.families.family import Family, family_of
from archsmith.compiler.families.page import name_of, page
from archsmith.compiler.spec.load import load

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("*.json"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_example_is_what_the_importer_writes(
    path: Path, families: dict[str, type[Family]], kinds: dict[str, type[Component]]
) -> None:
    config = read_config(path)
    text, warnings = page(config, families, name_of(path))
    example = EXAMPLES / f"{path.stem}.yaml"
    assert example.read_text(encoding="utf-8") == text
    assert [found.code for found in warnings] == ["E0311"] * ("quantization_config" in config.tree)

    spec = load(example, kinds, families)
    assert spec.name == path.stem
    assert spec.layer_count == config.tree["num_hidden_layers"]
    family = family_of(config, families)
    tree, _ = family.read(config)
    assert family.describe(spec) == family.describe(tree)


def test_every_example_has_its_configuration() -> None:
    assert {path.stem for path in CONFIGS} == {path.stem for path in EXAMPLES.glob("*.yaml")}
    assert len(CONFIGS) >= 12
