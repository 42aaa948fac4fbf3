"""Every registered op: its types are those of its reference, and what it cannot take it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.elementwise import ACTIVATIONS, Activation, Clamp
from archsmith.compiler.ops.experts import Experts, FusedExperts
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.ops.moe import SCORES, NormRouter, Route, Router
from archsmith.compiler.ops.position import Rotations
from archsmith.compiler.ops.shape import Concat, Expand, Flatten, Split, Unbind, Unflatten
from archsmith.compiler.plugins import Registry

from .cases import CASES, LENGTHS, Case, case, samples

X = TensorType.parse("float32[B, T, 12~4]")


def run(case: Case, which: Any) -> tuple[Any, ...]:
    """The reference's results; one that writes a cache is run as in training."""
    op = case.op.at(which)
    operands = samples(case, which)
    if op.stateful:
        none = (None,) * len(op.written)
        out = op.reference(*operands, *none)
        assert out[-len(none) :] == none
        return tuple(out[: -len(none)])
    out = op.reference(*operands)
    return out if isinstance(out, tuple) else (out,)


def conforms(case: Case, which: Any) -> None:
    types = case.op.types(*case.operands)
    results = run(case, which)
    assert len(types) == len(results)
    # In training the context is the call.
    lengths = LENGTHS | ({"S": LENGTHS["T"]} if case.op.stateful else {})
    for type, result in zip(types, results, strict=True):
        assert result.shape == type.sizes(which, **lengths)
        assert (result.dtype.kind == "i") == (type.dtype == "int64")


def cases(name: str, op: type[Op]) -> list[Case]:
    """The rows of an op; a third party's that takes one value and no attributes needs none."""
    found = [case for case in CASES if case.op.name == name]
    if not found and not op.__module__.startswith("archsmith."):
        found = [Case(op(), (X,))]
    return found


@pytest.mark.parametrize("name", Registry.installed().ops)
def test_every_op_is_what_its_type_says(name: str, registry: Registry) -> None:
    found = cases(name, registry.ops[name])
    assert found, f"tests/ops/cases.py has no row for {name}"
    for row in found:
        conforms(row, "size")
        conforms(row, "probe")


def wrong(type: TensorType) -> Iterator[TensorType]:
    """Types that are not quite this one."""
    shape = type.shape
    yield replace(type, shape=shape[1:])
    yield replace(type, shape=shape[:-1])
    yield replace(type, shape=())
    yield replace(type, shape=(*shape, Dim(3, 2)))
    yield replace(type, shape=(Dim(3, 2), *shape))
    yield replace(type, shape=shape[::-1])
    yield replace(type, shape=(*shape[:-1], "T"))
    yield from (
        replace(type, shape=(*shape[:i], Dim(7, 5), *shape[i + 1 :])) for i in range(len(shape))
    )
    yield type.over("T", "S")
    yield type.over("S", "T")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_op_takes_what_it_can_compute_or_raises(case: Case) -> None:
    """Whatever `infer` lets pass, the reference computes, and the type is right."""
    refused = 0
    for i, operand in enumerate(case.operands):
        for type in wrong(operand):
            other = replace(case, operands=(*case.operands[:i], type, *case.operands[i + 1 :]))
            try:
                case.op.types(*other.operands)
            except GraphError:
                refused += 1
                continue
            conforms(other, "size")
            conforms(other, "probe")
    if len(case.operands) > 1:
        assert refused >= 5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_number_of_operands_is_checked(case: Case) -> None:
    if any(name == "operands" for name in case.op.operand_names()):
        return
    with pytest.raises(GraphError, match=f"^{case.op.name}: "):
        case.op.types()
    with pytest.raises(GraphError, match=f"^{case.op.name}: "):
        case.op.types(*case.operands * 4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_reference_changes_its_operands(case: Case) -> None:
    operands = samples(case, "size")
    before = [operand.copy() for operand in operands]
    op = case.op.at("size")
    contexts = case.op.types(*case.operands)[-len(op.written) :] if op.stateful else ()
    op.reference(*operands, *(np.zeros(type.sizes("size", **LENGTHS)) for type in contexts))
    assert all(map(np.array_equal, operands, before))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_token_local_ops_are(case: Case) -> None:
    """A change of one token changes no other token's results."""
    if not case.op.token_local:
        return
    op, operands = case.op.at("size"), samples(case, "size")
    others = []
    for operand, type in zip(operands, case.operands, strict=True):
        other = operand.copy()
        if type.shape[:2] == ("B", "T"):
            other[:, 2] = other[::-1, 3]
        others.append(other)
    out, changed = op.reference(*operands), op.reference(*others)
    outs = (out, changed) if isinstance(out, tuple) else ((out,), (changed,))
    rest = [0, 1, 3, 4]
    for a, b in zip(*outs, strict=True):
        assert np.allclose(a[:, rest], b[:, rest], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_ops_are(case: Case) -> None:
    """In the operands that vary by token, all others kept."""
    if not case.op.linear:
        return
    op = case.op.at("size")
    varies = [type.shape[:2] == ("B", "T") for type in case.operands]
    one, two = samples(case, "size", 1), samples(case, "size", 2)
    two = [b if v else a for a, b, v in zip(one, two, varies, strict=True)]
    both = [2 * a + b if v else a for a, b, v in zip(one, two, varies, strict=True)]
    first, second, sums = (op.reference(*operands) for operands in (one, two, both))
    if not isinstance(first, tuple):
        first, second, sums = (first,), (second,), (sums,)
    for a, b, c in zip(first, second, sums, strict=True):
        assert np.allclose(2 * a + b, c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_commutative_ops_are(case: Case) -> None:
    operands = samples(case, "size")
    if case.op.commutative and operands[0].shape == operands[1].shape:
        assert np.array_equal(case.op.reference(*operands), case.op.reference(*operands[::-1]))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (case(Clamp(), str(X)), "neither limit"),
        (case(Activation("sin"), str(X)), "there is no activation sin"),
        (case(Einsum("btd"), str(X)), "is no equation"),
        (case(Einsum("btd,fd->btf"), str(X)), "needs 2 operands"),
        (case(Einsum("bt,fd->btf"), str(X), "float32[9, 12~4]"), "does not name the axes"),
        (case(Einsum("btd,fd->btf"), str(X), "float32[9, 12~5]"), "d of .* is both 12~4 and 12~5"),
        (case(Einsum("btd,fd->bte"), str(X), "float32[9, 12~4]"), "an axis that no operand has"),
        (case(Einsum("btd,fd->btf"), str(X), "float64[9, 12~4]"), "is not float32"),
        (case(Split((Dim(5, 1), Dim(7, 4))), str(X)), "do not add up"),
        (case(Split((Dim(5, 1), Dim(7, 3)), axis=0), str(X)), "axes count from the end"),
        (case(Split((Dim(5, 1), Dim(7, 3)), axis=-4), str(X)), "axes count from the end"),
        (case(Unflatten((Dim(6, 2), Dim(2, 1))), str(X)), "do not make axis"),
        (case(Flatten(), str(X)), "have no size"),
        (case(Flatten(axis=-1), str(X)), "no axis after"),
        (case(Concat(axis=-2), str(X), str(X)), "has no size"),
        (case(Concat(), str(X), "float64[B, T, 3]"), "does not join"),
        (case(Rotations(Dim(7, 5), 100.0, "float32"), "int64[B, T]"), "not a multiple"),
        (case(Rotations(Dim.of(8), 100.0, "float32", "ntk"), "int64[B, T]"), "is no scaling"),
        (case(Rotations(Dim.of(8), 100.0, "float32"), "float32[B, T]"), "positions are"),
        (case(Route("sigmoid", Dim(7, 2)), "float32[B, T, 6~4]"), "exceeds the experts"),
        (case(Route("sigmoid", Dim(2, 5)), "float32[B, T, 6~4]"), "exceeds the experts"),
        (case(Route("sigmoid", Dim.of(2), Dim.of(4)), "float32[B, T, 6~4]"), "not a multiple"),
        (case(Route("tanh", Dim.of(2)), "float32[B, T, 6~4]"), "is no score"),
        (case(Route("sigmoid", Dim.of(2)), "bfloat16[B, T, 6~4]"), "widen them"),
        (case(Router("sigmoid", Dim.of(2)), str(X), "float32[6~4, 12~5]"), "does not fit"),
        (case(Router("sigmoid", Dim.of(2)), str(X), "float64[6~4, 12~4]"), "does not fit"),
        (case(Router("sigmoid", Dim.of(7)), str(X), "float32[6~4, 12~4]"), "exceeds the experts"),
        (
            case(Router("sigmoid", Dim.of(2), bias_of="weights"), str(X), "float32[6~4, 12~4]"),
            "a bias of weights",
        ),
        (
            case(
                NormRouter("sigmoid", Dim.of(2), eps=1e-6),
                *(str(X), str(X), "float32[12~4]", "float32[6~4, 12~5]"),
            ),
            "does not fit",
        ),
        (
            case(
                Experts("silu", always=Dim(3, 1)),
                *map(str, next(c for c in CASES if c.op.name == "experts").operands),
            ),
            "leave none of",
        ),
        (
            case(
                FusedExperts("silu"),
                *map(str, next(c for c in CASES if c.op.name == "experts").operands[:3]),
                *("float32[6~4, 3, 14~5, 12~4]", "float32[6~4, 12~4, 14~5]"),
            ),
            r"not \[experts, 2, width, hidden\]",
        ),
        (case(Unbind(), "float32[B, T, 3~2, 12~4]"), "no fixed number of parts"),
        (
            case(Attend(1.0), "float32[B, T, 5, 8]", *["float32[B, S, 2, 8]"] * 2, "int64[B, T]"),
            "not a multiple",
        ),
        (
            case(
                Experts("tanh"),
                *map(str, next(c for c in CASES if c.op.name == "experts").operands),
            ),
            "no activation tanh",
        ),
    ],
    ids=str,
)
def test_refusals_say_why(made: Case, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        made.op.types(*made.operands)


def test_expand_repeats_every_row() -> None:
    x = np.arange(6.0).reshape(1, 2, 3)
    assert np.array_equal(Expand(Dim.of(4)).reference(x), np.stack([x] * 4, axis=2))


@pytest.mark.parametrize("function", [*ACTIVATIONS.values(), *SCORES.values()])
def test_large_values_overflow_nowhere(function: Any) -> None:
    x = np.array([-1e4, -800.0, -1.0, 0.0, 1.0, 800.0, 1e4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(function(x)).all()
