"""The text form: what is printed reads back, and what does not read says in which line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.model import Model, verify
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import models

REGISTRY = Registry.installed()
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

BLOCK = """\
block b
  param %w = ref("w.{layer}", (8~3)) : float32[8~3]
  cache rows : float32[B, S, 8~3]
  graph train, prefill, decode
    %x = input : float32[B, T, 8~3]
    %positions = input : int64[B, T]
    %rows = cached(%x, %positions, cache="rows") : float32[B, S, 8~3]
    %a, %b = split(%x, sizes=(3~1, 5~2)) : float32[B, T, 3~1], float32[B, T, 5~2]
    %y = concat(%a, %b) : float32[B, T, 8~3]
    %z = mul(%y, %w) : float32[B, T, 8~3]
    return %z
"""


def reads_back(model: Model) -> None:
    text = print_model(model)
    again = parse_model(text, REGISTRY.ops)
    verify(again)
    assert print_model(again) == text
    assert {n: b.params for n, b in again.blocks.items()} == {
        n: b.params for n, b in model.blocks.items()
    }
    assert (again.schedule, again.droppable) == (model.schedule, model.droppable)


@given(models(REGISTRY))
@settings(max_examples=80)
def test_random_models_read_back(model: Model) -> None:
    reads_back(model)


@pytest.mark.parametrize("pipeline", ["O0", "O2"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_read_back(path: Path, pipeline: str) -> None:
    compiler = Compiler(REGISTRY, REGISTRY.targets["cpu"], numeric=False)
    _, passes = compiler.passes(pipeline)
    model, _ = compiler.rewrite(compiler.build(compiler.load(path)), passes)
    reads_back(model)


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) >= 11


def test_a_block_alone_is_a_model_of_it() -> None:
    model = parse_model(BLOCK, REGISTRY.ops)
    assert model.schedule == (("b", 1),)
    assert print_model(model).endswith(BLOCK)


def test_unused_tensors_and_scopes_read_back() -> None:
    lines = BLOCK.splitlines()
    lines.insert(2, '  unused "lost.{layer}.weight"')
    lines.insert(7, "    # attention")
    lines.insert(9, "    #")
    text = "\n".join(lines) + "\n"
    model = parse_model(text, REGISTRY.ops)
    assert model.blocks["b"].unused == ("lost.{layer}.weight",)
    assert model.blocks["b"].graph("train").node("rows").scope == "attention"
    assert model.blocks["b"].graph("train").node("z").scope == ""
    assert "\n".join(line.rstrip() for line in print_model(model).splitlines()).endswith(
        text.rstrip()
    )


def test_names_may_be_those_of_another_phases_parameter() -> None:
    """A value is looked for in its graph before it is taken for a parameter of the block."""
    both = BLOCK.replace("graph train, prefill, decode", "graph train, prefill")
    decode = both[both.index("  graph") :].replace("train, prefill", "decode")
    decode = decode.replace("%y =", "%w =").replace("mul(%y, %w)", "mul(%w, %w)")
    text = both + decode
    assert print_model(parse_model(text, REGISTRY.ops)).endswith(text)


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        (2, '  param %w = ref("w.{layer}", (8~3) : float32[8~3]', r"expected '\)'"),
        (2, "  param %w = rot(1) : float32[8]", "there is no weight program rot; there are ref"),
        (2, '  param %w = ref("w/../x", (8)) : float32[8]', "is no tensor name"),
        (2, '  param w = ref("w", (8)) : float32[8]', "expected"),
        (2, '  param %w = ref("w", (8~3)) : float32[9~3]', "its program"),
        (2, '  param %w = ref("w", (8~3)) : float32[8~3] twice', "twice"),
        (3, "  cache rows : float32[B, S, 8~]", "is no dimension"),
        (4, "  graph", "expected"),
        (5, "    %x = input : float99[B]", "is no type"),
        (5, "    %X = input : float32[B, T, 8~3]", "no line starts with|expected"),
        (5, "    %x, %v = input : float32[B, T, 8~3]", "one"),
        (7, "    %rows = cached(%x, %positions) : float32[B, S, 8~3]", "cached needs cache"),
        (7, "    %rows = cache(%x) : float32[B]", "there is no op cache"),
        (7, '    %rows = cached(%x, %y, cache="rows") : float32[B, S, 8~3]', "no value %y"),
        (7, '    %rows = cached(%x, cache="rows") : float32[B, S, 8~3]', "cached"),
        (8, "    %a, %b = split(%x, sizes=(3, 5)) : float32[B, T, 3]", "do not add up"),
        (8, "    %a, %b = split(%x, sizes=(3~1, 5~2)) : float32[B, T, 3~1]", "expected|is no type"),
        (8, "    %a = split(%x, sizes=(3~1, 5~2)) : float32[B, T, 3~1]", "2 results, but 1 names"),
        (8, "    %a, %b = split(%x, size=(3~1)) : float32[B]", "split has no attribute size"),
        (9, "    %y = concat(%a, %b) : float32[B, T, 8~4]", "%y is float32"),
        (9, "    %x = concat(%a, %b) : float32[B, T, 8~3]", "%x"),
        (9, "    %y = concat(%a, %b, axis=x) : float32[B, T, 8~3]", "is no attribute"),
        (9, "    y = concat(%a, %b) : float32[B, T, 8~3]", "no line starts with 'y'"),
        (9, "    %y = concat(%a, %b) : float32[B, T, 8~3] : float32[B]", "float32"),
        (10, "    %z = mul(%y, %w", r"expected|ends"),
        (11, "    return %gone", "there is no value %gone"),
        (11, "    return %z %y", "%y"),
    ],
)
def test_what_does_not_read_names_its_line(line: int, wrong: str, message: str) -> None:
    lines = BLOCK.splitlines()
    lines[line - 1] = wrong
    with pytest.raises(GraphError, match=f"^line {line}: .*(?:{message})"):
        parse_model("\n".join(lines), REGISTRY.ops)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no block"),
        ("graph train", "line 1: stands in no block"),
        ("block b\n  return %x", "line 2: stands in no graph"),
        ("block b\n  %x = input : float32[B]", "line 2: stands in no graph"),
        ('model "x" : float99\nblock b', "line 1: .*float99"),
        ("schedule b *\nblock b", "line 1: expected"),
        ("block b\nblock b", "line 2: .*b"),
        ("block b\n  graph train\n  graph flight", "line 3: .*flight"),
    ],
)
def test_what_is_no_model(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_model(text, REGISTRY.ops)


LINE = st.sampled_from(BLOCK.splitlines())


@given(st.lists(LINE | LINE.flatmap(st.permutations).map("".join) | st.text(), max_size=14))
@settings(max_examples=300)
def test_no_text_raises_anything_else(lines: list[str]) -> None:
    with suppress(GraphError):
        parse_model("\n".join(lines), REGISTRY.ops)


@given(st.integers(0, len(BLOCK)), st.text(max_size=4), st.integers(0, 6))
@settings(max_examples=300)
def test_no_slip_of_the_pen_raises_anything_else(at: int, typed: str, lost: int) -> None:
    with suppress(GraphError):
        parse_model(BLOCK[:at] + typed + BLOCK[at + lost :], REGISTRY.ops)
