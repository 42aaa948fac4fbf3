"""How a kernel that writes to caches is held to its op: what it returns, and all of the caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.schedule.code import name
from kernels.checks import DTYPES, Edit, Results, as_arrays, drawn, emitted, registry
from kernels.guards import Guards

# Of a rounding to the stored dtype, and of sums in float32.
CLOSE = {"float32": 2e-6, "float16": 1e-3}


def appended(
    kernel: str,
    op: Op,
    types: Sequence[str],
    slots: Sequence[Sequence[int]],
    *,
    length: int,
    dtype: str,
    part_of: Mapping[str, int | tuple[int, ...]] | None = None,
    target: str = "h200",
    edit: Edit | None = None,
) -> tuple[Results, Results]:
    """What a kernel returns and leaves in caches of `length` slots, and what its op does.

    As `checks.interpreted`; `slots` [B, T] are where the tokens of each row go. The last slot of a
    row takes padding and is not compared. A write outside of a cache is an AssertionError, and
    so are counters that are not zero again.
    """
    family = registry().kernels[kernel]()
    whole = tuple(TensorType.parse(t if not t.startswith("[") else f"{dtype}{t}") for t in types)
    chip = registry().targets[target]
    refusal = family.refuses(op, whole, chip)
    assert refusal is None, refusal
    places = np.array(slots)
    first = np.arange(len(places))[:, None] * length
    sizes = Sizes(*places.shape, length)
    names = op.named(len(whole))
    operands = drawn(
        dict(zip(names, whole, strict=True)), sizes, {"positions": places}, part_of or {}
    )
    draws = np.random.default_rng(1)
    contexts = op.types(*whole)[-len(op.written) :]
    shapes = [context.sizes("size", B=sizes.batch, S=length) for context in contexts]
    rows = [
        torch.from_numpy(draws.standard_normal(shape)).to(DTYPES[context.dtype])
        for shape, context in zip(shapes, contexts, strict=True)
    ]
    exact = [x.double() if x.is_floating_point() else x for x in operands.values()]
    module = emitted(family, {op: whole}, chip, edit)
    functions = {n: f.launch for n, f in vars(module).items() if hasattr(f, "launch")}
    counters = family.counters(op, whole, chip) * sizes.batch
    counts = {"arrived": name("arrived")} if counters else {}
    code = family.call(op.at("size"), *map(name, names), phases=("decode",), **counts)
    flat = (name(f"cache_{i}").method("flatten", 0, 1) for i in range(len(rows)))
    code = code.given_first(*flat, name("slots"))
    with np.errstate(all="ignore"), Guards() as guards:
        arrived = torch.zeros(counters, dtype=torch.int32)
        caches = [torch.empty(x.shape, dtype=x.dtype).copy_(x) for x in rows]
        given = {f"cache_{i}": x for i, x in enumerate(caches)}
        given |= {**operands, "arrived": arrived, "slots": torch.from_numpy(places + first)}
        made = eval(code.text, {**functions, **given})
    guards.check()
    assert not arrived.any(), "counters were written for good"
    before = [x.double().numpy() for x in rows]
    results = op.at("size").reference(*(x.numpy() for x in exact), *before)
    after = results[-len(caches) :]
    returned = made if isinstance(made, tuple) else (made,)
    found = *returned, *(x[:, :-1] for x in caches)
    wanted = *results[: len(returned)], *(x[:, :-1] for x in after)
    return as_arrays(found), as_arrays(wanted)
