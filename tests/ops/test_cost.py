"""What ops cost at the least, against counts made by hand or by brute force."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.cost import Cost, Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend, Cached
from archsmith.compiler.ops.elementwise import Add, GatedActivation, Scale, Zeros
from archsmith.compiler.ops.experts import Experts, FusedExperts
from archsmith.compiler.ops.linear import Einsum, Embed
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.ops.moe import Router
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope
from archsmith.compiler.ops.shape import Concat, Expand, Flatten, Split, Unflatten

PREFILL, DECODE = Sizes(2, 16, 16), Sizes(2, 1, 16)
X = TensorType.parse("bfloat16[B, T, 64~5]")
POSITIONS = TensorType.parse("int64[B, T]")


def cost(op: Op, *operands: str | TensorType, sizes: Sizes = PREFILL) -> Cost:
    types = [TensorType.parse(o) if isinstance(o, str) else o for o in operands]
    return op.cost(sizes, *types)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 16, 40])
@pytest.mark.parametrize(("tokens", "context"), [(1, 1), (1, 9), (4, 4), (4, 9), (9, 9), (9, 23)])
def test_pairs_and_slots_are_those_that_a_mask_leaves(
    window: int | None, tokens: int, context: int
) -> None:
    queries = range(context - tokens, context)
    seen = [
        (query, slot)
        for query, slot in product(queries, range(context))
        if slot <= query and (window is None or slot > query - window)
    ]
    sizes = Sizes(3, tokens, context)
    assert sizes.pairs(window) == 3 * len(seen)
    assert sizes.slots(window) == 3 * len({slot for _, slot in seen})
    assert sizes.rows == 3 * tokens


def test_what_is_not_said_otherwise_reads_its_operands_and_writes_its_results() -> None:
    rows = 2 * 16 * 64 * 2
    assert cost(Add(), X, X) == Cost(bytes=3 * rows)
    assert cost(RmsNorm(eps=1e-6), X, "bfloat16[64~5]") == Cost(bytes=2 * rows + 128)
    assert cost(RmsNorm(eps=1e-6), X, "bfloat16[64~5]", sizes=DECODE) == Cost(bytes=640)
    assert cost(Zeros(), X) == Cost(bytes=rows)


def test_views_cost_nothing_and_what_joins_moves() -> None:
    assert cost(Split((Dim(60, 2), Dim(4, 3))), X) == Cost()
    assert cost(Unflatten((Dim(8, 1), Dim(8, 5))), X) == Cost()
    assert cost(Flatten(), "bfloat16[B, T, 8~1, 8~5]") == Cost()
    assert cost(Expand(Dim(4, 3)), X) == Cost()
    assert cost(Concat(), X, X) == Cost(bytes=4 * 2 * 16 * 64 * 2)


def test_a_contraction_takes_two_operations_for_each_product() -> None:
    linear = cost(Einsum("btd,fd->btf"), X, "bfloat16[96~7, 64~5]")
    assert linear == Cost(2 * 32 * 96 * 64, 2 * (32 * 64 + 96 * 64 + 32 * 96))
    heads = cost(Einsum("bthk,dhk->btd"), "bfloat16[B, T, 4~2, 8~3]", "bfloat16[64~5, 4~2, 8~3]")
    assert heads.flops == 2 * 32 * 64 * 4 * 8
    # On the side of the context, it works on all of it.
    whole = cost(
        Einsum("bsd,fd->bsf"), "bfloat16[B, S, 64~5]", "bfloat16[96~7, 64~5]", sizes=DECODE
    )
    assert whole.flops == 2 * 32 * 96 * 64
    # Where nothing is summed, nothing is contracted.
    assert cost(Einsum("btd,d->btd"), X, "bfloat16[64~5]").flops == 0
    assert cost(Einsum("btd->bt"), X).flops == 0


def test_a_lookup_moves_the_rows_alone() -> None:
    looked_up = cost(Embed(), "int64[B, T]", "bfloat16[100000~7, 64~5]")
    assert looked_up == Cost(bytes=32 * 8 + 2 * 32 * 64 * 2)


KEYS = ("bfloat16[B, S, 2~1, 8~3]", "bfloat16[B, S, 2~1, 4~2]")


@pytest.mark.parametrize(
    ("op", "sizes", "pairs", "slots"),
    [
        (Attend(scale=1.0), PREFILL, 16 * 17 // 2, 16),
        (Attend(scale=1.0), DECODE, 16, 16),
        (Attend(scale=1.0, window=Dim(5, 2)), PREFILL, 1 + 2 + 3 + 4 + 12 * 5, 16),
        (Attend(scale=1.0, window=Dim(5, 2)), DECODE, 5, 5),
        (Attend(scale=1.0, window=Dim(5, 2)), Sizes(2, 3, 16), 15, 7),
    ],
)
def test_attention_reads_each_row_once_for_a_group(
    op: Attend, sizes: Sizes, pairs: int, slots: int
) -> None:
    found = cost(op, "bfloat16[B, T, 6~2, 8~3]", *KEYS, "int64[B, T]", sizes=sizes)
    assert found.flops == 2 * 2 * pairs * 6 * (8 + 4)
    own = sizes.rows * (6 * 8 * 2 + 6 * 4 * 2 + 8)  # queries, results, positions
    assert found.bytes == own + 2 * slots * 2 * (8 + 4) * 2


def test_sinks_are_read_too() -> None:
    q = "bfloat16[B, T, 6~2, 8~3]"
    plain, sunk = (
        cost(Attend(scale=1.0), q, *KEYS, "int64[B, T]", *sinks)
        for sinks in ((), ("bfloat16[6~2]",))
    )
    assert sunk.bytes - plain.bytes == 6 * 2


def test_a_cache_is_written_by_what_is_new() -> None:
    for sizes in (PREFILL, DECODE, Sizes(2, 1, 10**6)):
        found = cost(Cached(cache="k"), "bfloat16[B, T, 2~1, 8~3]", "int64[B, T]", sizes=sizes)
        assert found == Cost(bytes=sizes.rows * (2 * 2 * 8 * 2 + 8))


EXPERTS, TOP_K, WIDTH, INNER = 8, 2, 64, 24
CHOSEN = ("int64[B, T, 2~1]", "float32[B, T, 2~1]")
DOWN = "bfloat16[8~3, 64~5, 24~2]"


@pytest.mark.parametrize(
    ("op", "weights"),
    [
        (Experts("silu"), ["bfloat16[8~3, 24~2, 64~5]"] * 2),
        (FusedExperts("silu"), ["bfloat16[8~3, 2, 24~2, 64~5]"]),
    ],
    ids=["apart", "fused"],
)
def test_experts_multiply_for_those_chosen_and_are_read_where_any_is(
    op: Op, weights: list[str]
) -> None:
    for sizes in (PREFILL, DECODE, Sizes(1, 1, 5), Sizes(10**6, 1, 5)):
        found = cost(op, X, *CHOSEN, *weights, DOWN, sizes=sizes)
        rows = sizes.rows
        assert found.flops == 2 * rows * TOP_K * 3 * WIDTH * INNER
        own = rows * (2 * WIDTH * 2 + TOP_K * (8 + 4))
        held = 3 * WIDTH * INNER * 2  # bytes of an expert
        # Of a row's choices, each as likely as any other, those that leave a given expert out.
        without = math.comb(EXPERTS - 1, TOP_K) / math.comb(EXPERTS, TOP_K)
        wanted = EXPERTS * (1 - without**rows)
        assert found.bytes == pytest.approx(own + wanted * held, rel=1e-12)


@pytest.mark.parametrize("op", [Experts("silu"), FusedExperts("silu")], ids=lambda op: op.name)
def test_experts_that_are_always_used_are_always_read(op: Op) -> None:
    """As much as the routed experts and a feed-forward beside them, but x and y once."""
    weights = {
        "experts": lambda n: [f"bfloat16[{n}, 24~2, 64~5]"] * 2,
        "fused_experts": lambda n: [f"bfloat16[{n}, 2, 24~2, 64~5]"],
    }[op.name]
    for sizes in (PREFILL, DECODE, Sizes(64, 1, 5)):
        routed = cost(op, X, *CHOSEN, *weights("8~3"), DOWN, sizes=sizes)
        chosen = ("int64[B, T, 5~3]", "float32[B, T, 5~3]")
        operands = (X, *chosen, *weights("11~5"), "bfloat16[11~5, 64~5, 24~2]")
        found = cost(replace(op, always=Dim(3, 2)), *operands, sizes=sizes)
        shared = 3 * WIDTH * INNER * 3  # the elements of three experts
        assert found.flops == routed.flops + 2 * sizes.rows * shared
        named = sizes.rows * 3 * (8 + 4)
        assert found.bytes == pytest.approx(routed.bytes + 2 * shared + named, rel=1e-12)


def test_a_router_reads_its_weight_once() -> None:
    rules = ("sigmoid", Dim(2, 1))
    for sizes in (PREFILL, DECODE):
        found = cost(Router(*rules), X, "bfloat16[8~3, 64~5]", sizes=sizes)
        assert found.flops == 2 * sizes.rows * EXPERTS * WIDTH
        written = sizes.rows * TOP_K * (8 + 4)
        assert found.bytes == 2 * (sizes.rows * WIDTH + EXPERTS * WIDTH) + written


def test_a_value_in_its_key_is_read_once() -> None:
    q, k = TensorType.parse("float32[B, T, 6, 24]"), TensorType.parse("float32[B, S, 1, 24]")
    v, positions = TensorType.parse("float32[B, S, 1, 16]"), TensorType.parse("int64[B, T]")
    sizes = Sizes(batch=2, tokens=1, context=50)
    apart = Attend(1.0).cost(sizes, q, k, v, positions)
    shared = Attend(1.0, value_in_key=True).cost(sizes, q, k, v, positions)
    assert apart.flops == shared.flops
    assert apart.bytes - shared.bytes == 2 * 50 * 16 * 4
    wide = TensorType.parse("float32[B, S, 1, 25]")
    with pytest.raises(GraphError, match="are no part of keys"):
        Attend(1.0, value_in_key=True).types(q, k, wide, positions)


ROWS = 2 * 16 * 64 * 2  # bytes of X in `PREFILL`
GAIN, TABLE = "bfloat16[64~5]", "float32[B, T, 32~4]"


@pytest.mark.parametrize(
    ("op", "operands", "wanted", "bytes"),
    [
        # of x, of its result's gradient and of its own; of a gain, itself and its gradient
        (RmsNorm(1e-6), (X, GAIN), "x weight", 3 * ROWS + 2 * 128),
        (RmsNorm(1e-6), (X, GAIN), "x", 3 * ROWS + 128),
        # one gradient for both summands, and two that come in
        (AddRmsNorm(1e-6), (X, X, GAIN), "x residual weight", 4 * ROWS + 2 * 128),
        (GatedActivation("silu"), (X, X), "gate up", 5 * ROWS),
        (Rope(False), (X, TABLE, TABLE), "x", 2 * ROWS + 2 * 2 * 16 * 32 * 4),
        # what is linear needs nothing of its operand
        (Scale(2.0), (X,), "x", 2 * ROWS),
        # what comes in goes on as it is, or in parts; a bias has the sum of it
        (Add(), (X, X), "x y", 0),
        (Add(), (X, GAIN), "x y", ROWS + 128),
        (Add(), (X, GAIN), "x", 0),
        (Concat(), (X, X), "x0 x1", 0),
        (Zeros(), (X,), "x", 0),
        # all rows of the table, be they named or not
        (Embed(), ("int64[B, T]", "bfloat16[1000~9, 64~5]"), "weight", 256 + ROWS + 128000),
    ],
)
def test_gradients_read_what_they_depend_on_and_are_written(
    op: Op, operands: tuple[str | TensorType, ...], wanted: str, bytes: int
) -> None:
    assert gradient_cost(op, *operands, wanted=wanted) == Cost(bytes=bytes)


def gradient_cost(op: Op, *operands: str | TensorType, wanted: str) -> Cost:
    types = [TensorType.parse(o) if isinstance(o, str) else o for o in operands]
    return op.gradient_cost(PREFILL, wanted.split(), *types)


def test_gradients_of_a_product_are_two() -> None:
    weight = "bfloat16[24~3, 64~5]"
    found = gradient_cost(Einsum("btd,fd->btf"), X, weight, wanted="x1 x0")
    assert found.flops == 2 * (2 * 32 * 64 * 24)
    assert found.bytes == 2 * ROWS + 2 * 24 * 64 * 2 + 32 * 24 * 2
    targets = "int64[B, T]"
    loss = gradient_cost(LinearCrossEntropy(), X, weight, targets, wanted="x weight")
    assert loss.flops == found.flops
    # In place of the gradient of logits, those of a loss and a logarithm for each row.
    assert loss.bytes == found.bytes - 32 * 24 * 2 + 32 * (8 + 4 + 4)


def test_gradients_of_experts_are_of_all_weights() -> None:
    """Those that nobody chose have zeros."""
    gate_up = "bfloat16[8~3, 2, 24~2, 64~5]"
    given = (X, *CHOSEN, gate_up, DOWN)
    forward = cost(FusedExperts("silu"), *given)
    found = gradient_cost(FusedExperts("silu"), *given, wanted="x weight gate_up down")
    assert found.flops == 2 * forward.flops
    written = ROWS + 32 * TOP_K * 4 + EXPERTS * 3 * WIDTH * INNER * 2
    assert found.bytes == forward.bytes + written


@pytest.mark.parametrize("window", [None, Dim(5, 2)])
def test_gradients_of_attention_are_five_products(window: Dim | None) -> None:
    """Of a key's width: scores, and the gradients of queries and of keys; of a value's two."""
    given = ("bfloat16[B, T, 6~2, 8~3]", *KEYS, "int64[B, T]")
    op = Attend(scale=1.0, window=window)
    forward = cost(op, *given)
    found = gradient_cost(op, *given, wanted="q k v")
    assert found.flops == forward.flops * (3 * 8 + 2 * 4) / (8 + 4)
    assert found.bytes == forward.bytes + 32 * (6 * 8 + 2 * (8 + 4)) * 2
