"""YAML as plain data with places, and what is not taken from YAML."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from archsmith.compiler.spec.diagnostics import Span, SpecError
from archsmith.compiler.spec.source import MAX_BYTES, parse, read
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML


def fatal(text: str) -> tuple[str, Span | None]:
    """Return the code and the place of what keeps a text from being read."""
    with pytest.raises(SpecError) as caught:
        parse(text, "spec.yaml")
    last = caught.value.diagnostics[-1]
    return last.code, last.span


def test_every_key_and_value_has_its_place() -> None:
    source = parse("a: &x 65\nb: {c: *x, d: , e: 'f g'}\nh:\n  - 1\n  - k: >\n     m\n", "s")
    assert source.tree == {
        "a": 65,
        "b": {"c": 65, "d": None, "e": "f g"},
        "h": [1, {"k": "m\n"}],
    }
    assert source.keys == {
        ("a",): Span(1, 1, 1),
        ("b",): Span(2, 1, 1),
        ("b", "c"): Span(2, 5, 1),
        ("b", "d"): Span(2, 12, 1),
        ("b", "e"): Span(2, 17, 1),
        ("h",): Span(3, 1, 1),
        ("h", 1, "k"): Span(5, 5, 1),
    }
    assert source.values["a",] == Span(1, 4, 5)
    assert source.values["b", "c"] == Span(1, 4, 5)  # an alias's value is where it is written
    assert source.values["b", "d"] == Span(2, 12, 1)  # a missing value's is its key's
    assert source.values["b", "e"] == Span(2, 20, 5)
    assert source.values["h", 1, "k"] == Span(5, 8, 1)
    assert source.value(("b", "c", "z", 3)) == source.value(("b", "c"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e6", 1e6),
        ("1.0e-6", 1e-6),
        ("-.5", -0.5),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+7", 7),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("'true'", "true"),
        ('"65"', "65"),
        ("~", None),
        ("null", None),
        ("nullable", "nullable"),
        ("1e", "1e"),
        (".", "."),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    tree = parse(f"a: {text}", "s").tree
    assert tree == {"a": value}
    assert type(tree["a"]) is type(value)


@pytest.mark.parametrize("text", [".nan", "-.inf", "1e999", "9" * 19, "9" * 6000, "0x" + "F" * 40])
def test_numbers_have_a_size(text: str) -> None:
    (found,) = parse(f"a: {text}", "s").mistakes
    assert (found.code, found.span) == ("E0108", Span(1, 4, len(text)))


def test_slips_do_not_keep_the_rest_from_being_read() -> None:
    source = parse("a: 1\na: 2\n<<: {b: 1}\n3: 4\n[5]: 6\nc: !!str 7\nd: 8\n", "s")
    codes = [found.code for found in source.mistakes]
    assert codes == ["E0105", "E0106", "E0107", "E0107", "E0106"]
    assert source.tree == {"a": 1, "c": 7, "d": 8}


def test_a_nest_is_refused_at_once() -> None:
    for text in ("[" * 100_000, "{a: " * 25_000, "- " * 50_000, "? " * 50_000):
        started = time.perf_counter()
        code, span = fatal(text)
        assert time.perf_counter() - started < 5
        assert code == "E0103"
        assert span is not None


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{x}: &{x} [{','.join([f'*{y}'] * 10)}]\n" for y, x in pairwise("abcdef")),
        "a: &a 1\nb: [" + "*a, " * 101 + "]",
        "- &a" + "[" * 40 + "]" * 40 + "\n- " + "[" * 40 + "*a" + "]" * 40,
        "a: [" + "1," * 100_001 + "]",
        "a" * (MAX_BYTES + 1),
    ],
    ids=["bomb", "aliases", "deep alias", "values", "bytes"],
)
def test_nothing_grows_without_bound(text: str) -> None:
    assert fatal(text)[0] == "E0103"


@pytest.mark.parametrize("text", ["a: *a", "a: &a [*a]", "a: &a {b: *a}"])
def test_an_alias_follows_its_anchor(text: str) -> None:
    assert fatal(text)[0] == "E0104"


def test_files_are_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x\r\nb: 1\r\n")
    assert read(file).tree == {"name": "x", "b": 1}
    file.write_bytes(b"name: x\nb: \xff\n")
    with pytest.raises(SpecError) as caught:
        read(file)
    (found,) = caught.value.diagnostics
    assert (found.code, found.span) == ("E0102", Span(2, 4))
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SpecError, match="E0103"):
        read(file)


PIECES = ["a", "b: ", "- ", "[", "]", "{", "}", ",", "\n", "  ", "&a ", "*a", "!t ", "'", '"', "\\"]
PIECES += [
    "|",
    ">",
    "? ",
    "%",
    "@",
    "`",
    "#",
    "---\n",
    "...\n",
    "1",
    "~",
    "\t",
    "\r",
    "é",
    "\ud800",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        source = parse(text, "s")
    except SpecError:
        return
    lines = source.lines
    for span in [*source.keys.values(), *source.values.values()]:
        assert 1 <= span.line <= len(lines) + 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES[:14])).map("".join))
def test_what_is_read_is_what_ruamel_reads(text: str) -> None:
    try:
        source = parse(text, "s")
    except SpecError:
        return
    if not source.mistakes:
        yaml = YAML(typ="safe", pure=True)
        assert source.tree == yaml.load(text)
