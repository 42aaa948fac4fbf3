"""Expressions of emitted Python: they mean what they were made from, and hold no text as it is."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.schedule.code import Code, as_code, call, name, string, tuple_of
from hypothesis import given
from hypothesis import strategies as st

X, Y, Z = name("x"), name("y"), name("z")
VALUES = {"x": 3.0, "y": -5.0, "z": 7.0}

HOSTILE = [
    '"',
    "'",
    "\\",
    '\\"',
    "\"'",
    '"""',
    "\n",
    "\r\n",
    "\u2028",
    "\u2029",
    "\x85",
    "\x00",
    "\x1b[31m",
    "\xe9\u6f22\U0001f600",
    "\udc80",  # half of a pair
    '"); __import__("os").system("true") #',
    "{x}",
    "{{ x }}",
    "# type: ignore",
]

Tree = tuple[Any, ...]


def trees(depth: int) -> list[Tree]:
    """All expressions of sums and products, up to a depth."""
    leaves: list[Tree] = [("x",), ("y",), ("z",), (2.0,), (-0.5,)]
    if depth == 0:
        return leaves[:3]
    below = trees(depth - 1)
    return below + [(op, a, b) for op in "+*" for a, b in itertools.product(below, below)]


def written(tree: Tree) -> Code:
    if len(tree) == 1:
        return name(tree[0]) if isinstance(tree[0], str) else as_code(tree[0])
    op, a, b = tree
    return written(a) + written(b) if op == "+" else written(a) * written(b)


def worth(tree: Tree) -> float:
    if len(tree) == 1:
        return VALUES[tree[0]] if isinstance(tree[0], str) else float(tree[0])
    op, a, b = tree
    return worth(a) + worth(b) if op == "+" else worth(a) * worth(b)


def test_arithmetic_means_what_it_was_made_from() -> None:
    for tree in trees(2):
        text = written(tree).text
        assert eval(text, {}, dict(VALUES)) == worth(tree), text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (X + Y * Z, "x + y * z"),
        ((X + Y) * Z, "(x + y) * z"),
        (X * (Y * Z), "x * (y * z)"),
        (X + (Y + Z), "x + (y + z)"),
        (X * 2.0, "x * 2.0"),
        (X * -2.0, "x * (-2.0)"),
        (X * 1e-06, "x * 1e-6"),
        (X * 1e20, "x * 1e20"),
        ((X + Y).method("sum", -1), "(x + y).sum(-1)"),
        ((X * Y)[0], "(x * y)[0]"),
        (X.is_none() | Y, "x is None or y"),
        (X.unless(Y.is_none()), "None if y is None else x"),
        ((X.is_none() | Y) * Z, "(x is None or y) * z"),
        (X.unless(Y).method("sum"), "(None if y else x).sum()"),
        (call("f", X + Y, X.unless(Y), flag=X | Y), "f(x + y, None if y else x, flag=x or y)"),
        (tuple_of(), "()"),
        (tuple_of(1), "(1,)"),
        (tuple_of(X, "a", (2, 3.0)), '(x, "a", (2, 3.0))'),
        (X[..., None, :], "x[..., None, :]"),
        (X[1:3, Y, 2:], "x[1:3, y, 2:]"),
        (X[:, (1, 2)], "x[:, (1, 2)]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_how_it_reads(code: Code, text: str) -> None:
    assert code.text == text
    ast.parse(text)


def loose(depth: int) -> list[Tree]:
    """All expressions of `or`, `is None` and `None if ... else ...`, up to a depth."""
    leaves: list[Tree] = [("x",), ("y",), ("z",)]
    if depth == 0:
        return leaves
    below = loose(depth - 1)
    pairs = list(itertools.product(below, below))
    found = [("or", a, b) for a, b in pairs] + [("unless", a, b) for a, b in pairs]
    return below + [("is none", a) for a in below] + found


def said(tree: Tree) -> Code:
    match tree:
        case (str() as variable,):
            return name(variable)
        case ("is none", a):
            return said(a).is_none()
        case ("or", a, b):
            return said(a) | said(b)
        case (_, a, b):
            return said(a).unless(said(b))
    raise AssertionError(tree)


def meant(tree: Tree, values: dict[str, object]) -> object:
    match tree:
        case (str() as variable,):
            return values[variable]
        case ("is none", a):
            return meant(a, values) is None
        case ("or", a, b):
            return meant(a, values) or meant(b, values)
        case (_, a, b):
            return None if meant(b, values) else meant(a, values)
    raise AssertionError(tree)


def test_conditions_mean_what_they_were_made_from() -> None:
    cases = [dict(zip("xyz", v, strict=True)) for v in itertools.product((None, 0, 3), repeat=3)]
    for tree in loose(2):
        code = compile(said(tree).text, "code", "eval")
        for values in cases:
            assert eval(code, {}, dict(values)) == meant(tree, values), said(tree).text


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans())
def test_a_number_is_its_own_literal(value: float) -> None:
    found = ast.literal_eval(as_code(value).text)
    assert type(found) is type(value)
    assert math.copysign(1, found) == math.copysign(1, value)
    assert found == value


@given(value=st.text(st.characters(exclude_categories=[])))
def test_any_string_is_one_literal_of_one_line(value: str) -> None:
    text = string(value)
    assert text.isascii()
    assert text.isprintable()
    assert text[0] == text[-1] == '"'
    tree = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(tree, ast.Call)
    assert [type(argument) for argument in tree.args] == [ast.Constant]
    assert ast.literal_eval(text) == value


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_string_gets_out_of_its_quotes(value: str) -> None:
    code = call("f", value, (value, 1), key=value)
    tree = ast.parse(code.text, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert ast.literal_eval(tree.args[0]) == value
    assert ast.literal_eval(tree.args[1]) == (value, 1)
    assert ast.literal_eval(tree.keywords[0].value) == value


@pytest.mark.parametrize(
    "path",
    [
        *HOSTILE,
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "1a",
        "a b",
        "a-b",
        "a()",
        "a[0]",
        "x\n",
        "class",
        "self.lambda",
        "None",
        "True",
        "\uff45val",  # Python reads this as eval
        "\xb5",
    ],
    ids=ascii,
)
def test_only_names_are_names(path: str) -> None:
    makers: list[Callable[[], Code]] = [
        lambda: name(path),
        lambda: call(path),
        lambda: call("f", **{path: 1}),
        lambda: X.method(path),
    ]
    for make in makers:
        with pytest.raises(GraphError, match="is no name of Python"):
            make()


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, [1], {"a": [1]}, b"a", object(), 1j, (1, [2]), ...]
)
def test_what_has_no_literal_is_refused(value: object) -> None:
    for make in (lambda: as_code(value), lambda: call("f", value), lambda: call("f", key=value)):
        with pytest.raises(GraphError, match="has no literal"):
            make()
