"""How far back a block reads its caches."""

from __future__ import annotations

from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.graph import Graph
from archsmith.compiler.ir.model import Block
from archsmith.compiler.ir.reach import windows
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend, Cached
from archsmith.compiler.ops.shape import Concat

NEAR, FURTHER = Attend(scale=1.0, window=Dim(128, 3)), Attend(scale=1.0, window=Dim(64, 4))
WHOLE = Attend(scale=1.0)


def block_of(*reads: tuple[Attend, str, str]) -> Block:
    """A block of attention: which op reads which cache as its key and as its value."""
    graph = Graph()
    head = TensorType("float64", ("B", "T", Dim(2, 2), Dim(6, 5)))
    positions = graph.input("positions", TensorType("int64", ("B", "T")))
    q, x = graph.input("q", head), graph.input("x", head)
    names = dict.fromkeys(name for _, *pair in reads for name in pair)
    rows = {name: graph.add(Cached(cache=name), x, positions, names=(name,))[0] for name in names}
    # A cache is also read through what works on each of its rows alone.
    wide = {name: graph.add(Concat(axis=-1), value, value)[0] for name, value in rows.items()}
    (query,) = graph.add(Concat(axis=-1), q, q)
    graph.outputs = tuple(graph.add(a, query, wide[k], wide[v], positions)[0] for a, k, v in reads)
    caches = {name: value.type for name, value in rows.items()}
    return Block("layer", caches=caches, graphs={("train", "prefill", "decode"): graph})


def test_how_far_back_a_cache_is_read() -> None:
    assert windows(block_of((NEAR, "k", "v"))) == {"k": Dim(128, 3), "v": Dim(128, 3)}
    assert windows(block_of((WHOLE, "k", "v"))) == {}
    # The largest reach counts, and one reader of all rows keeps them all.
    both = block_of((NEAR, "k", "v"), (FURTHER, "k", "v"))
    assert windows(both) == {"k": Dim(128, 4), "v": Dim(128, 4)}
    assert windows(block_of((NEAR, "k", "v"), (WHOLE, "k", "v"))) == {}
    # What is read beside a cache is kept as that is, through however many readers.
    apart = block_of((NEAR, "a", "b"), (WHOLE, "c", "d"))
    assert windows(apart) == {"a": Dim(128, 3), "b": Dim(128, 3)}
    chain = block_of((NEAR, "a", "b"), (NEAR, "b", "c"), (NEAR, "c", "d"), (WHOLE, "d", "e"))
    assert windows(chain) == {}
