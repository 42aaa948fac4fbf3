"""What turning a latent is for: rows that are rounded to few bits lose less of what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from archsmith.compiler.ir.evaluate import Evaluation
from archsmith.compiler.ir.model import Block
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.order import resolve
from archsmith.compiler.rewrite.pipeline import Runner

REGISTRY = Registry.installed()
TEXT = """
block b
  param %q_proj = ref("q", (4~2, 32~11, 96~7)) : float32[4~2, 32~11, 96~7]
  param %down = ref("down", (WIDTH, 96~7)) : float32[WIDTH, 96~7]
  param %gain = ref("gain", (WIDTH)) : float32[WIDTH]
  param %up = ref("up", (4~2, 32~11, WIDTH)) : float32[4~2, 32~11, WIDTH]
  cache k : float32[B, S, 4~2, 32~11]
  cache v : float32[B, S, 4~2, 32~11]
  graph train, prefill, decode
    %x = input : float32[B, T, 96~7]
    %positions = input : int64[B, T]
    %q = einsum(%x, %q_proj, equation="btd,hkd->bthk") : float32[B, T, 4~2, 32~11]
    %c = einsum(%x, %down, equation="btd,fd->btf") : float32[B, T, WIDTH]
    %latent = rms_norm(%c, %gain, eps=1e-06) : float32[B, T, WIDTH]
    %k = einsum(%latent, %up, equation="btl,hkl->bthk") : float32[B, T, 4~2, 32~11]
    %k_2 = cached(%k, %positions, cache="k") : float32[B, S, 4~2, 32~11]
    %v_2 = cached(%k, %positions, cache="v") : float32[B, S, 4~2, 32~11]
    %out = attend(%q, %k_2, %v_2, %positions, scale=0.176) : float32[B, T, 4~2, 32~11]
    return %out
"""
LATENT, OUTLIER = 3, 20.0
"""The number of each latent that stands out, and by how much its rows are larger."""


def block(passes: str, width: str) -> Block:
    model = parse_model(TEXT.replace("WIDTH", width), REGISTRY.ops)
    made, _ = Runner(REGISTRY.ops).run(model, resolve(passes, REGISTRY.passes, {}))
    return made.blocks["b"]


def read(name: str, shape: tuple[int, ...]) -> Any:
    drawn = np.random.default_rng(list(name.encode())).standard_normal(shape)
    if name == "down":
        drawn[LATENT] *= OUTLIER
    return 1 + 0.1 * drawn if name == "gain" else drawn / np.sqrt(shape[-1])


def evaluate(block: Block) -> dict[str, Any]:
    """All values of training at the real sizes."""
    params = {k: p.program.evaluate("size", read, {}) for k, p in block.params.items()}
    x = np.random.default_rng(0).standard_normal((2, 64, 96))
    inputs = {"x": x, "positions": np.tile(np.arange(64), (2, 1))}
    values, _ = Evaluation.of(block.graph("train"), "size")(inputs, params)
    return values


def int4(rows: Any) -> Any:
    """Rows as multiples of their largest number's seventh, from -7 to 7."""
    step = np.abs(rows).max(-1, keepdims=True) / 7
    return np.round(rows / step) * step


@pytest.mark.parametrize(("width", "falls"), [("64~6", 2.0), ("48~5", 2.0), ("31~17", 2.0)])
def test_rounding_a_cached_latent_to_int4_costs_less(width: str, falls: float) -> None:
    """The error of the rows, relative to them, over all tokens: it falls by so many times."""
    plain = block("compress-kv,fold-norm-gain", width)
    turned = block("compress-kv,fold-norm-gain,rotate-latent", width)
    before, after = (evaluate(b) for b in (plain, turned))
    errors = []
    for values, b in ((before, plain), (after, turned)):
        (node,) = (n for n in b.graph("train").nodes() if n.op is not None and n.op.stateful)
        rows = values[node.name]
        errors.append(np.linalg.norm(int4(rows) - rows) / np.linalg.norm(rows))
    assert np.allclose(before["out"], after["out"], rtol=1e-10, atol=1e-12)
    assert all(turned.params[name] != plain.params[name] for name in ("down", "up"))
    assert errors[0] > falls * errors[1], errors
