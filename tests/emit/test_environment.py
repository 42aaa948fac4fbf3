"""Templates: nothing reaches a file but values of known kinds, and no string becomes code."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.environment import render
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.emit.values import Json, Name, Prose, Source, Text
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.schedule.code import call, name
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTILE = [
    '"""\nimport os\n"""',
    "'''\nimport os\n'''",
    '")\nimport os  #',
    "x\nimport os",
    "x\rimport os",
    "x\u2028import os",
    "x\x0cimport os",
    "\\",
    'a\\"',
    "{{ 7 * 7 }}{% raw %}",
    "\x00",
    "__import__('os').system('true')",
]


@dataclass(frozen=True)
class Leaky(Text):
    """A kind of value with a bug: it prints what it was given."""

    def __str__(self) -> str:
        return f'"{self.text}"'


@pytest.mark.parametrize("value", ["plain", b"bytes", ["list"], None, True, Path("x"), object()])
def test_only_known_kinds_are_printed(value: object) -> None:
    with pytest.raises(GraphError, match=f"a template printed {type(value).__name__}"):
        render("x = {{ value }}", {"value": value})


def test_a_template_may_not_print_what_it_makes_itself() -> None:
    for template in ('x = {{ "y" }}', 'x = {{ name ~ "y" }}', "x = {{ name.text }}"):
        with pytest.raises(GraphError, match="a template printed str"):
            render(template, {"name": Name("y")})


def test_a_forgotten_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'y' is undefined"):
        render("x = {{ y }}", {"x": Name("x")})
    with pytest.raises(UndefinedError, match="has no attribute 'other'"):
        render("x = {{ y.other }}", {"y": Name("y")})
    with pytest.raises(UndefinedError, match="'y' is undefined"):
        render("{% if y %}x = 1{% endif %}", {})


def test_known_kinds_are_printed_as_what_they_are() -> None:
    values = {
        "name": Name("x"),
        "text": Text('a"b\n'),
        "prose": Prose('a"b\n'),
        "source": Source(("    y = 1", "    z = 2")),
        "code": call("f", name("x"), 1),
        "one": 1,
        "half": 0.5,
    }
    template = (
        "def {{ name }}():  # {{ prose }}\n{{ source }}\n"
        "    return {{ text }}, {{ code }}, {{ one }}, {{ half }}\n"
    )
    assert render(template, values).splitlines() == [
        "def x():  # a?b?",
        "    y = 1",
        "    z = 2",
        r'    return "a\"b\n", f(x, 1), 1, 0.5',
    ]
    assert render("{{ data }}", {"data": Json({"b": 1, "a": "é"})}, python=False) == (
        '{\n  "a": "\\u00e9",\n  "b": 1\n}'
    )


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_string_gets_out_of_its_place(value: str) -> None:
    template = '"""{{ prose }}"""\n\nx = {{ text }}  # {{ prose }}\n'
    text = render(template, {"text": Text(value), "prose": Prose(value)})
    documented, assigned = ast.parse(text).body
    assert isinstance(documented, ast.Expr)
    assert isinstance(assigned, ast.Assign)
    assert ast.literal_eval(assigned.value) == value
    assert len(text.splitlines()) == 3


@given(value=st.text(st.characters(exclude_categories=[])))
def test_prose_is_printable_ascii_without_quotes(value: str) -> None:
    text = str(Prose(value))
    assert len(text) == len(value)
    assert text.isascii()
    assert text == "" or text.isprintable()
    assert not set(text) & set("\"'`\\<>")


@pytest.mark.parametrize(
    "value",
    [
        'x"\nimport os\ny = "',
        'x"\rimport os\ry = "',
        'x" + str(1) + "',
        'x", "y',
        'x"  # ',
        'x" if 1 else "',
    ],
)
def test_a_kind_with_a_bug_is_caught_by_its_syntax(value: str) -> None:
    with pytest.raises(GraphError, match=r"became code|gave no Python"):
        render("x = f({{ value }})\n", {"value": Leaky(value)})
    assert render("x = f({{ value }})\n", {"value": Leaky("harmless")}) == 'x = f("harmless")\n'


@pytest.mark.parametrize(
    "template",
    [
        "@f({{ value }})\ndef g():\n    return 1\n",
        "def g(x={{ value }}):\n    return 1\n",
        "{{ head }}\nx = f({{ value }})\ny = 0\nz = 0\n",  # whose lines are not counted by \n
    ],
    ids=["in a decorator", "in a signature", "behind a carriage return"],
)
def test_a_kind_with_a_bug_is_caught_wherever_it_stands(template: str) -> None:
    values = {"value": Leaky('x" + str(1) + "'), "head": Source(("#\r#",))}
    with pytest.raises(GraphError, match="became code"):
        render(template, values)
    render(template, {**values, "value": Leaky("x")})


def test_a_template_that_gives_no_python_is_an_error() -> None:
    with pytest.raises(GraphError, match="a template gave no Python"):
        render("x = = {{ one }}", {"one": 1})


@pytest.mark.parametrize("value", ["1x", "class", "x y", "x-y", "", "x\n", "\xe9"])
def test_only_names_are_names(value: str) -> None:
    with pytest.raises(GraphError, match="is no name of Python"):
        Name(value)


def test_a_hostile_description_changes_no_syntax(tmp_path: Path) -> None:
    """What comes from outside and is no name: pipelines, versions, families, tensor names."""
    compiler = Compiler.installed(numeric=False)
    model = compiler.build(compiler.load(EXAMPLES / "tiny-llama.yaml"))
    plan = compiler.schedule(model)

    def files(text: str) -> dict[str, str]:
        checkpoint = {"family": text, "fields": {text: text}, "others": {}, "absent": {}}
        facts = Facts(text, 313, 72, 256, text, text, {"x": text}, checkpoint, {text: text})
        return emit(plan, compiler.registry.templates, facts)

    plain = files("plain")
    for value in HOSTILE:
        for path, text in files(value).items():
            if path.endswith(".py"):
                assert _shape(text) == _shape(plain[path]), path
            elif path.endswith(".json"):
                json.loads(text)
            assert text.isascii()
            assert "\x00" not in text


def _shape(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def test_an_ops_text_is_a_literal_in_the_model() -> None:
    compiler = Compiler.installed(numeric=False)
    kernel = compiler.registry.kernels["torch.einsum"]()
    hostile = object.__new__(Einsum)
    object.__setattr__(hostile, "equation", 'ab,cb->ac"); import os; ("')
    code = kernel.call(hostile, name("x"), name("y"), phases=("train",))
    tree = ast.parse(code.text, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert ast.literal_eval(tree.args[0]) == hostile.equation
