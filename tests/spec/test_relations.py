"""What must hold between sizes, and when."""

from __future__ import annotations

import pytest
from archsmith.compiler.components.gqa import Gqa
from archsmith.compiler.components.moe import Moe
from archsmith.compiler.spec.relations import (
    AtMost,
    Equal,
    Even,
    Multiple,
    Relation,
    Small,
    When,
    in_force,
)

GROUPED = AtMost("k", bound="n", times=("top", "groups"))


@pytest.mark.parametrize(
    ("relation", "values", "broken"),
    [
        (Multiple("a", of="b"), {"a": 6, "b": 3}, None),
        (
            Multiple("a", of="b"),
            {"a": 7, "b": 3},
            ("a (7) is not a multiple of b (3)", "6 or 9 would do"),
        ),
        (
            Multiple("a", of="b"),
            {"a": 2, "b": 3},
            ("a (2) is not a multiple of b (3)", "3 would do"),
        ),
        (Multiple("a", of="b", least=2), {"a": 6, "b": 3}, None),
        (
            Multiple("a", of="b", least=2),
            {"a": 3, "b": 3},
            ("a (3) is less than 2 times b (3)", "at least 6 here"),
        ),
        (AtMost("a", bound="b"), {"a": 3, "b": 3}, None),
        (AtMost("a", bound="b"), {"a": 4, "b": 3}, ("a (4) exceeds b (3)", "at most 3 here")),
        (GROUPED, {"k": 4, "n": 8, "top": 2, "groups": 4}, None),
        (
            GROUPED,
            {"k": 5, "n": 8, "top": 2, "groups": 4},
            ("k (5) exceeds n * top / groups (4)", "at most 4 here"),
        ),
        (Even("a"), {"a": 4}, None),
        (Even("a"), {"a": 5}, ("a (5) is odd", "rotated in pairs; 6 would do")),
        (Equal("a", other="b"), {"a": 5, "b": 5}, None),
        (Equal("a", other="b"), {"a": 5, "b": 6}, ("a (5) is not b (6)", "leave it out, or 6")),
        (Small("a"), {"a": 99}, None),
    ],
)
def test_check(relation: Relation, values: dict[str, int], broken: tuple[str, str] | None) -> None:
    assert relation.check(values) == broken
    assert relation.fields[0] == relation.field
    for field in relation.fields:
        assert relation.check({**values, field: 0}) is None
        assert relation.check({name: x for name, x in values.items() if name != field}) is None


def test_conditions() -> None:
    always, rotated = Even("a"), When(Even("b"), given="rope", missing="rope.dim")
    summed = When(Even("c"), given="score", equals="sum")
    relations = (always, rotated, summed)
    values: dict[str, object] = {"a": 1, "b": 1, "c": 1}
    assert in_force(relations, values) == (Even("a"),)
    assert in_force(relations, {**values, "rope": {}}) == (Even("a"), Even("b"))
    assert in_force(relations, {**values, "rope": {}, "rope.dim": 2}) == (Even("a"),)
    assert in_force(relations, {**values, "score": "sum"}) == (Even("a"), Even("c"))
    assert in_force(relations, {**values, "score": "max", "a": None}) == ()


def test_a_part_knows_what_holds_of_it() -> None:
    plain = Gqa(heads=4, kv_heads=2, head_dim=7)
    assert Even("head_dim") not in plain.constraints()
    rope = {"theta": 10000.0, "interleaved": True}
    rotated = Gqa.model_validate({"heads": 4, "kv_heads": 2, "head_dim": 8, "rope": rope})
    assert Even("head_dim") in rotated.constraints()
    router = {"score": "sigmoid", "groups": 2, "top_groups": 1, "normalize": True}
    moe = {"experts": 8, "top_k": 2, "width": 3, "router": router}
    two = Multiple("experts", of="router.groups", least=2)
    assert two not in Moe.model_validate(moe).constraints()
    moe["router"] = {**router, "group_score": "top2_sum"}
    assert two in Moe.model_validate(moe).constraints()
    assert Moe.model_validate(moe).sizes() == {
        "experts": 8,
        "top_k": 2,
        "width": 3,
        "shared": 0,
        "router.groups": 2,
        "router.top_groups": 1,
    }
