"""Joined queries, keys and values beside other passes: in either order, and in published models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.count import cache_bytes
from archsmith.compiler.ir.text import print_model

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ("tiny-deepseek-v2", "tiny-deepseek-v3", "tiny-llama", "tiny-mixtral", "tiny-qwen3-moe")


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler.installed(numeric=False)


def text(compiler: Compiler, example: str, passes: str) -> str:
    """The model after some passes, without the numbers that tell values of one name apart."""
    _, chosen = compiler.passes(f"eliminate-dead,{passes}")
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    model, outcomes = compiler.rewrite(compiler.build(spec), chosen)
    assert {o.name for o in outcomes if not o.applications} <= {"eliminate-dead", *LEAVE_SOME}
    return re.sub(r"(%[a-z_]+?)(_\d+)+\b", r"\1", print_model(model))


LEAVE_SOME = ("compress-kv", "permute-rope", "absorb-attention")  # they are for some models only


@pytest.mark.parametrize("example", TINY)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("defer-add,fuse-add-rms-norm,fuse-qkv", "defer-add,fuse-qkv,fuse-add-rms-norm"),
        ("permute-rope,fuse-qkv", "fuse-qkv,permute-rope"),
        ("compress-kv,permute-rope", "permute-rope,compress-kv"),
        ("compress-kv,absorb-attention,fuse-qkv", "fuse-qkv,compress-kv,absorb-attention"),
    ],
)
def test_either_order_gives_the_same(
    compiler: Compiler, example: str, first: str, second: str
) -> None:
    assert text(compiler, example, first) == text(compiler, example, second)


@pytest.mark.parametrize(("example", "layers"), [("deepseek-v2-lite", 27), ("deepseek-v3", 61)])
def test_a_latent_is_kept_and_absorbed_behind_it(
    compiler: Compiler, example: str, layers: int
) -> None:
    _, passes = compiler.passes("permute-rope,fuse-qkv,compress-kv,absorb-attention")
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    model, outcomes = compiler.rewrite(compiler.build(spec), passes)
    assert cache_bytes(model) == layers * 576 * 2
    assert all(outcome.applications == 2 for outcome in outcomes)  # once in each kind of layer
