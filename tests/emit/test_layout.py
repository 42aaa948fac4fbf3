"""Statements are laid out as `ruff format` would, so that an owner's formatter changes nothing."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from archsmith.compiler.emit.layout import WIDTH, statement
from archsmith.compiler.schedule.code import Code, call, name, tuple_of

LONG = [f"{word}_{'very_long_name_' * 5}"[:63] for word in ("attention", "experts", "router")]
NAMES = ["x", "q_nope", "positions", "cache.fresh", "self.attention_norm"]
STRING = "btd,hkd->bthk (text), [with] brackets"  # a bracket in a string is none


def expression(draw: random.Random, depth: int, words: list[str]) -> Code:
    """Nested calls, methods, tuples and indices, as kernels write them."""
    if depth == 0 or draw.random() < 0.25:
        leaf = draw.choice([*words, 1, 2.5, -1, 1e-6, STRING])
        return name(leaf) if leaf in words else call("int", leaf)

    def below(least: int, most: int) -> list[Code]:
        return [expression(draw, depth - 1, words) for _ in range(draw.randint(least, most))]

    options = draw.sample(["scale", "causal", "eps", "group_score"], draw.randrange(3))
    return draw.choice(
        [
            lambda: call("attend", *below(1, 4), **{o: below(1, 1)[0] for o in options}),
            lambda: call("rope", *below(1, 1)).method("flatten", *below(0, 2)),
            lambda: call("rope", *below(1, 1))[..., None, :],
            lambda: tuple_of(*below(1, 3)),
        ]
    )()


def drawn(seed: int, words: list[str]) -> str:
    draw = random.Random(seed)
    lines: list[str] = []
    for number in range(300):
        lines.append(f"def f{number}():")
        indent = 4 * draw.randrange(1, 4)
        lines += [f"{' ' * inner}if x:" for inner in range(4, indent, 4)]
        head = draw.choice(["x = ", "return ", "a, b = ", "yield "])
        values = [expression(draw, draw.randrange(1, 5), words).text]
        if head in ("return ", "yield ") and draw.random() < 0.4:
            values.append(expression(draw, draw.randrange(3), words).text)
        comment = "[B, T, 128]" if len(values) == 1 and draw.random() < 0.3 else ""
        lines += [*statement(head + ", ".join(values), indent, comment), "", ""]
    return "\n".join(lines).rstrip() + "\n"


def formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--isolated", f"--line-length={WIDTH}", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("words", [NAMES, NAMES + LONG], ids=["short names", "long names"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn(seed: int, words: list[str]) -> None:
    text = drawn(seed, words)
    assert text == formatted(text)
    assert words != NAMES or max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    "text",
    [
        f"from .kernels import {', '.join(LONG)}",
        f"{LONG[0]} = {LONG[1]} + {LONG[2]}",
        f"{LONG[0]} = x * {LONG[2]}",
        f'yield "{{at}}.{LONG[0]}.weight", layer.{LONG[1]}.flatten(0, 1)',
        f'yield "{{at}}.x", layer.{LONG[1]}[:96].unflatten(0, (3, 32))[:, 20:].permute(0, 2, 1)',
        f'yield "{{at}}.x", layer.{LONG[1]}[:96].unflatten(0, ({LONG[0]}, {LONG[2]}))',
        f"return {', '.join(LONG)}",
        f"x: tuple[tuple[type[{LONG[0]}] | type[{LONG[1]}], int], ...] = (({LONG[0]}, 1),)",
        f'x: dict[str, tuple[int, ...]] = {{"{LONG[0]}": (5, 32), "{LONG[1]}": (5, 28), "k": ()}}',
        f'UNUSED: tuple[str, ...] = ("{LONG[0]}", "{LONG[1]}")',
        f"{LONG[0]} = ({LONG[1]} + {LONG[2]}) * 2.0",
        f"{LONG[0]} = 1e20 * {LONG[2]} + x * y",
    ],
    ids=lambda text: text[:24],
)
def test_what_is_too_long_for_a_line(text: str) -> None:
    lines = statement(text, 0)
    assert max(map(len, lines)) <= WIDTH
    whole = "\n".join(lines) + "\n"
    assert whole == formatted(whole)


@pytest.mark.parametrize("length", range(WIDTH - 20, WIDTH + 1))
def test_a_comment_is_kept_where_it_fits(length: int) -> None:
    text = f"x = {'y' * (length - 4)}"
    whole = f"{text}  # [B, T, 128]"
    assert statement(text, 0, "[B, T, 128]") == [whole if len(whole) <= WIDTH else text]


def test_the_comment_of_a_broken_statement_is_at_its_end() -> None:
    lines = statement(f"x = attend({', '.join(LONG)})", 8, "[B, T, 128]")
    assert lines[0] == "        x = attend("
    assert lines[-1] == "        )  # [B, T, 128]"
