"""KV latent compression of published models: 576 numbers a token and layer, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.count import cache_bytes
from archsmith.compiler.ir.cut import best_cache_bytes
from archsmith.compiler.views import why_not
from archsmith.passes.compress_kv import CompressKv

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler.installed(numeric=False)


@pytest.mark.parametrize(
    ("name", "layers", "held", "kept"),
    [
        ("deepseek-v2-lite", 27, 5120, 576),
        ("deepseek-v2", 60, 40960, 576),
        ("deepseek-v3", 61, 40960, 576),
        ("llama-3-8b", 32, 2048, 2048),
        ("mixtral-8x7b", 32, 2048, 2048),
        ("qwen3-30b-a3b", 48, 1024, 1024),
        ("deepseek-67b", 95, 2048, 2048),
    ],
)
@pytest.mark.parametrize("pipeline", ["O0", "O1"])
def test_published_models(
    compiler: Compiler, name: str, layers: int, held: int, kept: int, pipeline: str
) -> None:
    _, passes = compiler.passes(pipeline)
    model, _ = compiler.rewrite(compiler.build(compiler.load(EXAMPLES / f"{name}.yaml")), passes)
    assert cache_bytes(model) == layers * held * 2
    after, (outcome,) = compiler.rewrite(model, [CompressKv()])
    assert cache_bytes(after) == best_cache_bytes(after) == layers * kept * 2
    blocks = [name for name in model.blocks if model.blocks[name].caches]
    assert outcome.applications == (len(blocks) if kept < held else 0)
    assert len(outcome.refusals) == (0 if kept < held else len(blocks))
    again, (second,) = compiler.rewrite(after, [CompressKv()])
    assert second.applications == 0
    assert cache_bytes(again) == cache_bytes(after)


def test_explain_says_what_it_saves_and_costs(compiler: Compiler) -> None:
    model = compiler.build(compiler.load(EXAMPLES / "deepseek-v3.yaml"))
    told = why_not(compiler, model, [], CompressKv())
    assert told.splitlines() == [
        "compress-kv applies 2 times",
        *(
            f"changed {block}/%k_2: 1152 bytes a token are kept of 81920: %latent_2 and %k_rope_2;"
            " 5 values of the context are made again at each step, or absorbed"
            for block in ("dense", "sparse")
        ),
    ]


def test_a_package_of_it_is_proved_and_keeps_less(tmp_path: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v3.yaml")
    name, passes = compiler.passes("O1")
    report = compiler.package(spec, tmp_path / "package", name, [*passes, CompressKv()])
    assert report.proof is not None
    assert report.cache_bytes_per_token == 3 * 44 * 4
    text = (tmp_path / "package" / "model.py").read_text()
    assert 'kv = cache.write("kv", kv)  # [B, S, 44]' in text


@pytest.mark.parametrize("last", ["attention", "grouped"])
def test_a_block_with_another_attention(tmp_path: Path, last: str) -> None:
    """One that holds the least already stays, whichever of them the other's keys depend on."""
    page = (EXAMPLES / "tiny-deepseek-v2.yaml").read_text()
    first = {"attention": "grouped", "grouped": "attention"}[last]
    steps = "".join(f"{{norm: rms, use: {part}}}, " for part in (first, last))
    page = page.replace("{norm: rms, use: attention}, ", steps)
    grouped = "  grouped:   {kind: gqa, heads: 4, kv_heads: 2, head_dim: 6}\n"
    page = page.replace("parts:\n", f"parts:\n{grouped}").replace("checkpoint: deepseek_v2", "")
    (tmp_path / "both.yaml").write_text(page)
    compiler = Compiler.installed()
    spec = compiler.load(tmp_path / "both.yaml")
    name, passes = compiler.passes("O2")
    report = compiler.package(spec, tmp_path / "package", name, passes, prove=False)
    assert sum(outcome.trials for outcome in report.outcomes) > 0
    assert report.cache_bytes_per_token == 3 * (44 + 2 * 2 * 6) * 4
