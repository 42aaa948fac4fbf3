"""Specs as text: laid out for reading, and read back as they were."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.spec.source import parse
from archsmith.compiler.spec.write import WIDTH, flow, scalar, write
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

TREE = {
    "archsmith": 1,
    "name": "example",
    "layers": [
        {"repeat": 1, "block": "dense"},
        {"repeat": 26, "block": ["sparse", "dense"]},
    ],
    "blocks": {"dense": [{"norm": "rms", "use": "mlp"}], "sparse": [{"use": ["mlp", "e"]}]},
    "parts": {
        "rms": {"kind": "rms_norm", "eps": 1e-6},
        "mlp": {"kind": "swiglu", "width": 10944},
        "e": {
            "kind": "moe",
            "first_of_many_fields": 1,
            "second_of_many_fields": 2,
            "third_of_many_fields": 3,
            "router": {"score": "softmax", "normalize": False},
        },
    },
    "final_norm": "rms",
    "head": {"tied": False},
    "pipeline": ["a", "b"],
}
TEXT = """\
# A header
# of two lines
archsmith: 1
name: example

layers:  # the schedule, top to bottom
  - {repeat: 1,  block: dense}
  - {repeat: 26, block: [sparse, dense]}

blocks:  # a block is a list of residual steps: x = x + use(norm(x))
  dense:  [{norm: rms, use: mlp}]
  sparse: [{use: [mlp, e]}]

parts:
  rms: {kind: rms_norm, eps: 1.0e-6}
  mlp: {kind: swiglu, width: 10944}
  e:   {kind: moe, first_of_many_fields: 1, second_of_many_fields: 2, third_of_many_fields: 3,
        router: {score: softmax, normalize: false}}

final_norm: rms
head: {tied: false}
pipeline: [a, b]
"""


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_layout_of_a_page() -> None:
    assert write(TREE, "A header\nof two lines") == TEXT
    assert read(TEXT) == TREE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-6, "1.0e-6"),
        (1.5e-07, "1.5e-7"),
        (1e22, "1.0e+22"),
        (0.707, "0.707"),
        (10000.0, "10000.0"),
        (True, "true"),
        (None, "null"),
        ("silu", "silu"),
        ("No", '"No"'),
        ("null", '"null"'),
        ("1e3", '"1e3"'),
        ("a: b", '"a: b"'),
        ("a\u2028'\"\\", '"a\\u2028\'\\"\\\\"'),
        ("\U0001f600", '"\\U0001f600"'),
        ("", '""'),
    ],
)
def test_scalars(value: object, text: str) -> None:
    assert scalar(value) == text
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_only_plain_values_are_written() -> None:
    with pytest.raises(TypeError, match="no object"):
        flow({"a": [object()]})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(["yes", "on", "null", "~", "0x10", "1_000", "-", "#", "e5", ".5", "1:20"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=6), inner, max_size=8)
    ),
    max_leaves=60,
)
KEYS = st.sampled_from(["name", "layers", "blocks", "parts", "head", "a b", "1"])


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read_back(tree: dict[str, Any]) -> None:
    text = write(tree)
    assert parse(text, "spec.yaml").tree == tree if tree else read(text) is None
    for line in text.splitlines():
        assert len(line) <= WIDTH or "," not in line.strip(" ,{}[]") or '"' in line


def test_numbers_of_any_yaml_reader() -> None:
    """YAML 1.1 takes 1e-06 for a word; both versions take 1.0e-6 for a number."""
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 1)
    assert reader.load("a: " + scalar(1e-06)) == {"a": 1e-06}
