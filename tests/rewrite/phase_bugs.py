"""Bugs that show in one situation only: a phase, a step, a row, a call after another."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from archsmith.compiler.ir.graph import Node
from archsmith.compiler.ir.op import Op
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import DECODE, PREFILL, VALUE, Change, Mutant, again, each
from .wrong_ops import (
    AttendAhead,
    AttendBehind,
    AttendByTurns,
    AttendToTheCall,
    CountUp,
    EpsOutside,
    Narrow,
    OfTheFirstRow,
    ReadThenWrite,
    Slip,
    WriteFromTheStart,
    WriteTheLast,
    WriteTwoSteps,
)

TRAIN = ("train",)


def instead(op: str, wrong: type[Op], nth: int = 0) -> Change:
    """Make a bug of another op with the same attributes and operands."""

    def change(rewriter: Rewriter, node: Node) -> Any:
        known = node.op.attributes() if node.op is not None else {}
        made = wrong(**{f.name: known[f.name] for f in fields(wrong)})
        return rewriter.add(made, *rewriter.graph.operands(node))

    change.__name__ = wrong.name
    return each(op, nth)(change)


def by(op: str, wrong: Op, called: str) -> Change:
    """Make a bug of other positions for an op."""

    def change(rewriter: Rewriter, node: Node) -> Any:
        assert node.op is not None
        operands = list(rewriter.graph.operands(node))
        at = node.op.operand_names().index("positions")
        operands[at] = rewriter.add(wrong, operands[at])
        return rewriter.add(node.op, *operands)

    change.__name__ = called
    return each(op)(change)


def slip(when: str) -> Change:
    """Make a bug of what a block returns, in one situation."""

    def run(rewriter: Rewriter) -> None:
        (out,) = rewriter.graph.outputs
        positions = next(v for v in rewriter.graph.inputs if v.name == "positions")
        rewriter.replace(out, rewriter.add(Slip(when), out, positions))

    run.__name__ = f"slip_{when.replace(' ', '_')}"
    return run


def narrow(op: str) -> Change:
    def change(rewriter: Rewriter, node: Node) -> Any:
        assert node.op is not None
        return rewriter.add(Narrow(), rewriter.add(node.op, *rewriter.graph.operands(node)))

    change.__name__ = f"round_{op}_to_float32"
    return each(op)(change)


@each("attend")
def narrow_the_window(rewriter: Rewriter, node: Node) -> Any:
    """Which shows only beyond it."""
    assert node.op is not None
    window = node.op.attributes()["window"]
    return again(rewriter, node, window=window - 1 if window else None)


BLOCK = r"block \w+, (?:value %\w+|what it returns,) differs by .* in "

ALONE: tuple[tuple[str, Mutant], ...] = (
    ("train", Mutant(slip("at any time"), BLOCK + "train", TRAIN)),
    ("prefill", Mutant(slip("six tokens at once"), BLOCK + "prefill", PREFILL)),
    ("chunked prefill", Mutant(slip("one token after others"), BLOCK + "chunked prefill", PREFILL)),
    (
        "prefill and decode",
        Mutant(slip("from the third step of rows alike"), BLOCK + "prefill and decode", DECODE),
    ),
    ("decode from empty", Mutant(slip("on nothing"), BLOCK + "decode from empty", DECODE)),
    ("ragged", Mutant(slip("of rows unlike"), BLOCK + "ragged", DECODE)),
    ("ragged", Mutant(slip("a chunk of rows unlike"), BLOCK + "ragged", PREFILL)),
    (
        "ragged",
        Mutant(by("cached", OfTheFirstRow(), "write_a_chunk_as_the_first_row"), VALUE, PREFILL),
    ),
    (
        "ragged",
        Mutant(by("cached", OfTheFirstRow(), "write_at_the_first_rows_positions"), VALUE, DECODE),
    ),
    (
        "ragged",
        Mutant(by("rotations", OfTheFirstRow(), "turn_by_the_first_rows_positions"), VALUE, DECODE),
    ),
)
"""Bugs that only the scenario of that name sees."""

PHASES = (
    *(mutant for _, mutant in ALONE),
    Mutant(slip("after others"), BLOCK + "chunked prefill", PREFILL),
    Mutant(instead("attend", AttendToTheCall), VALUE + "chunked", PREFILL),
    Mutant(slip("of the last row"), BLOCK, DECODE),
    Mutant(slip("of the fourth token"), BLOCK, PREFILL),
    Mutant(by("rotations", CountUp(), "turn_by_the_call"), VALUE, DECODE),
    Mutant(by("rotations", CountUp(), "turn_by_the_chunk"), VALUE + "chunked prefill", PREFILL),
    Mutant(by("attend", CountUp(), "see_what_the_call_sees"), VALUE, DECODE),
    Mutant(instead("attend", AttendAhead), VALUE),
    Mutant(instead("attend", AttendAhead), VALUE, DECODE),
    Mutant(instead("attend", AttendBehind), VALUE, DECODE),
    Mutant(instead("attend", AttendByTurns), VALUE),
    Mutant(instead("cached", ReadThenWrite), VALUE, DECODE),
    Mutant(instead("cached", WriteTwoSteps), VALUE, DECODE),
    Mutant(instead("cached", WriteTwoSteps, 1), VALUE, DECODE),
    Mutant(instead("cached", WriteFromTheStart), VALUE + "chunked prefill", PREFILL),
    Mutant(instead("cached", WriteFromTheStart), VALUE, DECODE),
    Mutant(instead("cached", WriteTheLast), VALUE, PREFILL),
    Mutant(instead("rms_norm", EpsOutside), VALUE),
    Mutant(narrow("attend"), VALUE),
    Mutant(narrow("cached"), VALUE, DECODE),
    Mutant(narrow_the_window, VALUE, DECODE),
)
