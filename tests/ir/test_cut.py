"""The least that a token must leave in a cache: graphs made by hand, and published models."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.count import cache_bytes
from archsmith.compiler.ir.cut import best_cache_bytes, cheapest_cuts
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.graph import Graph, Value
from archsmith.compiler.ir.model import PHASES, Block, Model
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend, Cached
from archsmith.compiler.ops.elementwise import Activation, Add, Mul, Scale
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.ops.position import Rotations
from archsmith.compiler.ops.shape import Expand, Split

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADS, HEAD, NARROW, WIDE = Dim(4, 3), Dim(8, 2), Dim(8, 5), Dim(64, 7)


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler.installed(numeric=False)


def built(compiler: Compiler, name: str) -> Model:
    return compiler.build(compiler.load(EXAMPLES / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "layers", "row"),
    [
        ("deepseek-v2-lite", 27, 512 + 64),
        ("deepseek-v2", 60, 512 + 64),
        ("deepseek-v3", 61, 512 + 64),
        ("llama-3-8b", 32, 2 * 8 * 128),
        ("mixtral-8x7b", 32, 2 * 8 * 128),
        ("qwen3-30b-a3b", 48, 2 * 4 * 128),
        ("deepseek-67b", 95, 2 * 8 * 128),
    ],
)
def test_published_models(compiler: Compiler, name: str, layers: int, row: int) -> None:
    model = built(compiler, name)
    assert best_cache_bytes(model) == layers * row * 2
    (kept,) = cheapest_cuts(model.blocks[model.schedule[1][0]])
    assert kept.bytes == row * 2
    if name.startswith("deepseek-v"):
        assert [value.name for value in kept.values] == ["latent_2", "k_rope_2"]
    else:  # nothing is gained, so what is held now is what is found
        assert best_cache_bytes(model) == cache_bytes(model)


@pytest.mark.parametrize(
    ("name", "layers", "row"),
    [("tiny-deepseek-v2", 3, 44), ("tiny-deepseek-v3", 3, 44), ("tiny-llama", 3, 2 * 2 * 12)],
)
def test_tiny_models(compiler: Compiler, name: str, layers: int, row: int) -> None:
    model = built(compiler, name)
    assert model.layers == layers
    assert best_cache_bytes(model) == layers * row * 4


def test_a_window_costs_nothing_at_long_context(compiler: Compiler) -> None:
    model = built(compiler, "tiny-mixtral")
    assert best_cache_bytes(model) == cache_bytes(model) == 0


class Attention:
    """A block of one attention, whose key and value are made of `x` as a test wants it."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.positions = self.graph.input("positions", TensorType("int64", ("B", "T")))
        self.x = self.graph.input("x", TensorType("float32", ("B", "T", WIDE)))
        self.narrow = self.add(Einsum("btd,fd->btf"), self.x, self.weight("down", NARROW, WIDE))

    def add(self, op: Op, *operands: Value, name: str = "") -> Value:
        names = (name,) if name else ()
        return self.graph.add(op, *operands, names=names)[0]

    def weight(self, name: str, *shape: Dim) -> Value:
        return self.graph.param(name, TensorType("float32", shape))

    def heads(self, name: str, x: Value) -> Value:
        width = x.type.row[-1]
        return self.add(
            Einsum("btd,hkd->bthk"), x, self.weight(f"w_{name}", HEADS, HEAD, width), name=name
        )

    def block(self, k: Value, v: Value) -> Block:
        caches = {}
        for name, value in (("k_rows", k), ("v_rows", v)):
            rows = self.add(Cached(cache=name), value, self.positions, name=name)
            caches[name] = rows.type
        read = [self.graph.value(name) for name in caches]
        out = self.add(Attend(scale=1.0), self.heads("q", self.x), *read, self.positions)
        self.graph.outputs = (out,)
        return Block("layer", caches=caches, graphs={PHASES: self.graph})


def names(block: Block) -> list[str]:
    (cut,) = cheapest_cuts(block)
    return [value.name for value in cut.values]


def least(block: Block) -> int:
    return sum(cut.bytes for cut in cheapest_cuts(block))


def test_what_is_linear_may_be_made_again() -> None:
    a = Attention()
    scaled = a.add(Scale(0.5), a.heads("k", a.narrow))
    block = a.block(scaled, a.heads("v", a.narrow))
    assert names(block) == [a.narrow.name]
    assert least(block) == 8 * 4


def test_what_is_not_linear_is_kept_as_it_is() -> None:
    a = Attention()
    bent = a.add(Activation("silu"), a.heads("k", a.narrow), name="bent")
    block = a.block(bent, a.heads("v", a.narrow))
    # The value could still come of what is narrow; the key is kept.
    assert set(names(block)) == {a.narrow.name, "k_rows"}
    assert least(block) == (8 + 4 * 8) * 4


def test_what_feeds_the_unabsorbable_is_not_made_again() -> None:
    a = Attention()
    k = a.heads("k", a.narrow)
    bent = a.add(Activation("silu"), k, name="bent")
    block = a.block(bent, k)
    # The value is the key before it is bent, and lies before the cut with all that feeds it.
    assert least(block) == (4 * 8 + 4 * 8) * 4


def test_a_product_of_two_that_vary_is_not_linear() -> None:
    a = Attention()
    both = a.add(Einsum("bthk,bthk->bthk"), a.heads("k", a.narrow), a.heads("l", a.narrow))
    gated = a.add(Mul(), a.heads("m", a.narrow), a.heads("n", a.narrow))
    assert least(a.block(both, gated)) == (4 * 8 + 4 * 8) * 4


def test_what_is_made_of_cached_rows_is_found_there() -> None:
    a = Attention()
    a.add(Cached(cache="rows"), a.narrow, a.positions, name="rows")
    rows = a.graph.value("rows")
    k, v = (
        a.add(Einsum("bsd,hkd->bshk"), rows, a.weight(name, HEADS, HEAD, NARROW)) for name in "kv"
    )
    a.graph.outputs = (a.add(Attend(scale=1.0), a.heads("q", a.x), k, v, a.positions),)
    block = Block("layer", caches={"rows": rows.type}, graphs={PHASES: a.graph})
    assert (names(block), least(block)) == (["rows"], 8 * 4)


def test_of_equal_cuts_the_nearest_to_attention() -> None:
    a = Attention()
    # Key and value together are as wide as what they are made of.
    block = a.block(a.heads("k", a.x), a.heads("v", a.x))
    assert names(block) == ["k_rows", "v_rows"]
    assert least(block) == 64 * 4


def test_a_bias_may_be_added_again() -> None:
    a = Attention()
    k = a.add(Add(), a.heads("k", a.narrow), a.weight("bias", HEADS, HEAD))
    assert names(a.block(k, a.heads("v", a.narrow))) == [a.narrow.name]


def test_what_is_of_the_call_alone_is_not_added_again() -> None:
    """A value that positions make is that of the call's tokens, and of no others."""
    a = Attention()
    cos, _ = a.graph.add(Rotations(width=HEAD * 4, theta=10.0, dtype="float32"), a.positions)
    row = a.add(Einsum("btd,kd->btk"), a.narrow, a.weight("w", HEAD * 2, NARROW))
    row = a.add(Add(), row, cos, name="row")
    shared = a.add(Expand(HEADS), row)
    k, _ = a.graph.add(Split((HEAD, HEAD)), shared, names=("k", "other"))
    assert names(a.block(k, k)) == ["row"]


def test_attentions_that_share_a_cache_are_one() -> None:
    """Though what each reads of it is made of nothing that the other reads."""
    a = Attention()
    rows = a.add(Cached(cache="rows"), a.heads("k", a.narrow), a.positions, name="rows")
    read = [a.add(Activation(function), rows, name=function) for function in ("silu", "relu")]
    q = a.heads("q", a.x)
    a.graph.outputs = tuple(a.add(Attend(scale=1.0), q, k, k, a.positions) for k in read)
    block = Block("layer", caches={"rows": rows.type}, graphs={PHASES: a.graph})
    (cut,) = cheapest_cuts(block)
    assert cut.held == 32 * 4
    assert set(cut.read) == set(read)


def test_attentions_that_share_nothing_are_cut_apart() -> None:
    a = Attention()
    first = a.block(a.heads("k", a.narrow), a.heads("v", a.narrow))
    assert len(cheapest_cuts(first)) == 1
    out = a.add(
        Einsum("bthv,dhv->btd"), first.graphs[PHASES].outputs[0], a.weight("o", WIDE, HEADS, HEAD)
    )
    other = a.add(Einsum("btd,fd->btf"), out, a.weight("other_down", NARROW, WIDE), name="other")
    rows = a.add(Cached(cache="rows"), a.heads("other_k", other), a.positions, name="rows")
    a.graph.outputs = (
        a.add(Attend(scale=1.0), a.heads("other_q", a.x), rows, rows, a.positions, name="last"),
    )
    block = Block("layer", caches={**first.caches, "rows": rows.type}, graphs={PHASES: a.graph})
    one, two = cheapest_cuts(block)
    # Keys of the second depend on the result of the first, which is the same whatever is kept.
    assert ([v.name for v in one.values], one.held, one.bytes) == ([a.narrow.name], 64 * 4, 8 * 4)
    assert ([v.name for v in two.values], two.held, two.bytes) == (["other"], 32 * 4, 8 * 4)
    assert two.readers == ("last",)
