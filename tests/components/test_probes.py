"""Probes: built so that every relation of a spec holds, and nothing is equal that need not be."""

from __future__ import annotations

from itertools import combinations

import pytest
from archsmith.compiler.components.building.probes import Probes
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.load import from_tree
from archsmith.compiler.spec.relations import AtMost, Equal, Multiple
from archsmith.compiler.spec.schema import Spec
from hypothesis import given, settings
from strategies import Tree, specs, trees

REGISTRY = Registry.installed()


def sizes(spec: Spec) -> dict[tuple[str, int], Dim]:
    probes = Probes.of(spec)
    found = {item for part in spec.parts.values() for item in part.sizes().items()}
    found |= {("hidden_size", spec.hidden_size), ("vocab_size", spec.vocab_size)}
    return {item: probes.dim(*item) for item in found}


def tied(spec: Spec) -> set[frozenset[tuple[str, int]]]:
    """The pairs of sizes that a relation makes one, where they are equal."""
    pairs = set()
    for part in spec.parts.values():
        values = part.sizes()
        for relation in part.constraints():
            match relation:
                case Multiple(one, other) | AtMost(one, other, None) | Equal(one, other):
                    if values[one] == values[other] > 1:
                        pairs.add(frozenset([(one, values[one]), (other, values[other])]))
    return pairs


@given(specs(REGISTRY))
@settings(max_examples=150)
def test_probes_obey_what_the_sizes_obey(spec: Spec) -> None:
    dims = sizes(spec)
    for (name, value), dim in dims.items():
        assert dim.size == value, name
        assert dim.probe == value or value > 1
        assert dim.probe > 1 or value <= 1
    for part in spec.parts.values():
        values = {item: dims[item].probe for item in part.sizes().items()}
        probed = {name: probe for (name, _), probe in values.items()}
        for relation in part.constraints():
            assert relation.check(probed) is None, (relation, probed)


@given(specs(REGISTRY))
@settings(max_examples=100)
def test_equal_sizes_are_one_where_a_relation_says_so_and_nowhere_else(spec: Spec) -> None:
    dims = sizes(spec)
    pairs = tied(spec)
    for pair in pairs:
        one, other = pair if len(pair) == 2 else (next(iter(pair)),) * 2
        assert dims[one] == dims[other]
    groups = {item: {item} for item in dims}
    for pair in pairs:
        merged = set().union(*(groups[item] for item in pair))
        groups |= dict.fromkeys(merged, merged)
    for one, other in combinations(dims, 2):
        if one[1] > 1 and other[1] > 1 and other not in groups[one]:
            assert dims[one].probe != dims[other].probe, (one, other)


@given(trees())
@settings(max_examples=50)
def test_probes_are_the_same_every_time(tree: Tree) -> None:
    spec = from_tree(tree, REGISTRY.components)
    again = from_tree({**tree, "name": "another"}, REGISTRY.components)
    assert sizes(spec) == sizes(again)


SPEC: Tree = {
    "archsmith": 1,
    "name": "alike",
    "dtype": "float32",
    "vocab_size": 64,
    "hidden_size": 64,
    "max_positions": 64,
    "layers": [{"repeat": 1, "block": "b"}],
    "blocks": {"b": [{"use": "wide"}, {"use": "narrow"}, {"use": "mlp"}]},
    "parts": {
        "wide": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16},
        "narrow": {"kind": "gqa", "heads": 4, "kv_heads": 4, "head_dim": 8},
        "mlp": {"kind": "swiglu", "width": 64},
        "rms": {"kind": "rms_norm", "eps": 1e-6},
    },
    "final_norm": "rms",
    "head": {"tied": False},
}


def test_products_that_happen_to_be_equal_differ() -> None:
    """hidden_size = heads * head_dim = width = vocab_size = 64, and none follows from another."""
    probes = Probes.of(from_tree(SPEC, REGISTRY.components))
    alike = [
        probes.dim("hidden_size", 64),
        probes.dim("vocab_size", 64),
        probes.dim("width", 64),
        probes.dim("heads", 4) * probes.dim("head_dim", 16),
    ]
    assert {dim.size for dim in alike} == {64}
    assert len(set(alike)) == 4


def test_a_field_of_one_value_is_one_size_in_two_parts() -> None:
    probes = Probes.of(from_tree(SPEC, REGISTRY.components))
    assert probes.dim("heads", 4) == probes.dim("kv_heads", 4)
    assert probes.dim("kv_heads", 2) != probes.dim("kv_heads", 4)
    with pytest.raises(GraphError, match="kv_heads 3 is no size of the spec"):
        probes.dim("kv_heads", 3)
