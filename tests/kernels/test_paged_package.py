"""Packages for a GPU whose caches lie in pages: decoding by their kernels, and what tries these."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from emit.test_golden import EXAMPLES, is_clean
from kernels.checks import Edit
from kernels.launching import as_on_a_gpu, launching
from kernels.test_package import CLOSE

PAGE = 16
PAGED = f"O2,page-cache{{page={PAGE}}}"
IN_FLOAT8 = f"{PAGED},quantize-kv after compress-kv,fuse-dequantize after absorb-attention"


def built(
    folder: Path, example: str, pipeline: str, attention: str, edit: Edit | None = None
) -> ModuleType:
    """The package of an example in float32, which decodes by this kernel of attention; `edit` is
    done to its graph behind all passes."""
    compiler = Compiler.installed("h200", numeric=False)
    _, passes = compiler.passes(pipeline)
    page = folder / "page.yaml"
    text = (EXAMPLES / f"{example}.yaml").read_text()
    for said, meant in (("dtype: bfloat16", "dtype: float32"), ("repeat: 3", "repeat: 1")):
        text = text.replace(said, meant)
    page.write_text(text)
    model = compiler.build(compiler.load(page))
    model, _ = compiler.rewrite(model, passes, lambda before, after: {"perplexity": 0.0})
    if edit is not None:
        model = parse_model(edit(print_model(model)), compiler.registry.ops)
    plan = compiler.schedule(model)
    assert attention in {choice.kernel.name for choice in plan.choices}
    name = f"paged_{attention.partition('.')[2]}"
    vocab = next(iter(model.blocks["embed"].params.values())).program.shape[0].size
    facts = Facts("0", vocab, 1, 1, "", "", {})
    for path, text in emit(plan, compiler.registry.templates, facts).items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)
    is_clean(folder / name)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        importlib.import_module(f"{name}.tests.on_gpu")
        return sys.modules[name]
    finally:
        sys.path.remove(str(folder))


def test_decoding_by_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the end of a page, on ragged rows, whose pages are in no order."""
    package = built(tmp_path, "tiny-llama", PAGED, "triton.decode_attention")
    torch.manual_seed(0)
    model = package.Model(package.Config())
    tokens = torch.randint(0, model.embed.shape[0], (2, 20))

    def answers() -> list[torch.Tensor]:
        cache = model.new_cache(batch=2, length=20, pages=4)
        cache._free.reverse()
        found = [model.prefill(tokens[:, :14], cache, lengths=[14, 3])]
        found += [model.extend(tokens[:, 14:16], cache), model.decode(tokens[:, 16], cache)]
        cache.free(1)
        return [*found, model.prefill(tokens[:, 17:20], cache, lengths=[1, 3])]

    wanted = answers()
    calls: list[str] = []
    for name in ("add_project_heads", "decode_attention"):
        function = getattr(package.model, name)
        monkeypatch.setattr(package.model, name, launching(function, calls))
    found = answers()
    assert set(calls) == {"add_project_heads", "decode_attention"}
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=CLOSE, atol=CLOSE)
    tried(package, "decode_attention", monkeypatch)


def test_a_latent_in_float8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = built(tmp_path, "tiny-deepseek-v2", IN_FLOAT8, "triton.quantized_attention")
    tried(package, "quantized_attention", monkeypatch)
    drawn = sys.modules[f"{package.__name__}.tests.on_gpu"]
    attend = sys.modules[f"{package.__name__}.kernels.quantized_attend"].quantized_attend
    table = drawn.draw_table(3, 40, PAGE, "cpu")
    numbers = drawn.draw_in_8_bits(3, 40, 32, dtype=torch.float8_e4m3fn)
    rows = numbers, drawn.draw_scales(3, 40, 2), drawn.draw(3, 40, 12)
    pages = (drawn.in_pages(x, table, PAGE) for x in rows)
    q, positions = drawn.draw(3, 2, 4, 44), drawn.draw_positions(3, 2, 40)
    found = attend(q, *pages, positions, 0.2, PAGE, table=table, slots=40)
    assert torch.equal(found, attend(q, *rows, positions, 0.2, PAGE))


def test_what_is_appended_to_pages_is_read_there(tmp_path: Path) -> None:
    """A pass that comes last may not let one layer read rows where another reads pages."""
    with pytest.raises(ArchsmithError, match="of block dense appends to pages, but what reads"):
        built(
            *(tmp_path, "tiny-deepseek-v2", PAGED, "triton.decode_attention"),
            lambda text: text.replace(f", page={PAGE}~2", "", 1),
        )


def tried(package: ModuleType, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what a package tries a kernel by on a GPU, here in Triton's interpreter."""
    module = sys.modules[f"{package.__name__}.tests.on_gpu"]
    as_on_a_gpu(module, monkeypatch)
    monkeypatch.setattr(module, "DECODE", ((2, 1, 5), (3, 2, 40)))
    test = module.TritonTest(f"test_{kernel}")
    test.setUp()
    getattr(test, f"test_{kernel}")()
