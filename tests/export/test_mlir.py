"""Exported prefills, compiled and run by IREE, against the packages built from the same specs."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.driver import Compiler
from package.tiny import EXAMPLES, fresh, prompt

from .conftest import Export

ROOT = EXAMPLES.parent

pytestmark = pytest.mark.usefixtures("tools")

# Logits are of order one, and float32 is summed in another order: 9e-6 was the largest seen.
TOLERANCE = 3e-5


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The shallow package of an example, for a target whose experts take their own tokens only."""
    root = tmp_path_factory.mktemp("built")
    compiler = Compiler.installed("cpu", numeric=False)
    pipeline, passes = compiler.passes(None)

    def build(example: str) -> ModuleType:
        name = f"built_{example.replace('-', '_')}"
        page = root / f"{name}.yaml"
        page.write_text(shallow((EXAMPLES / f"{example}.yaml").read_text()))
        spec = compiler.load(page)
        compiler.package(spec, root / name, pipeline, passes, prove=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    sys.path.insert(0, str(root))
    yield build
    sys.path.remove(str(root))


def shallow(page: str, /) -> str:
    """Every kind of layer once, or twice: as much is shown, in less time."""
    return re.sub(r"repeat: [23]", "repeat: 1", page)


def run(text: str, inputs: Sequence[Any]) -> list[Any]:
    """Compile a module for this processor and call its function."""
    compiler = importlib.import_module("iree.compiler")
    runtime = importlib.import_module("iree.runtime")
    target = ["--iree-llvmcpu-target-cpu=generic"]
    code = compiler.compile_str(text, target_backends=["llvm-cpu"], extra_args=target)
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, code))
    results = context.modules.module["prefill"](*inputs)
    return [np.asarray(result.to_host()) for result in results]


def arrays(tensors: Sequence[torch.Tensor]) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def close(got: Any, wanted: torch.Tensor) -> None:
    np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("example", ["tiny-deepseek-v3", "tiny-mixtral"])
def test_a_module_computes_what_the_package_does(
    example: str, export: Export, packages: Any
) -> None:
    """Two rows, one of them shorter; more tokens than a window holds, where there is one."""
    length = 52 if "mixtral" in example else 13
    module = export(example, shallow, batch=2, tokens=length)
    built = packages(example)
    model = fresh(built, torch.float32)
    named = model.state_dict()
    arguments = module.signature["arguments"]
    assert [a["name"] for a in arguments] == ["tokens", "lengths", *named]
    assert [a["shape"] for a in arguments[2:]] == [list(p.shape) for p in named.values()]

    tokens, lengths = prompt(built, 2, length), torch.tensor([length, 7])
    cache = model.new_cache(2, length)
    wanted = model.prefill(tokens, cache, lengths)
    logits, *rows = run(module.text, arrays([tokens, lengths, *named.values()]))
    close(logits, wanted)

    kept = [(i, name) for i, layer in enumerate(cache.buffers) for name in layer]
    names = [result["name"] for result in module.signature["results"]]
    assert names == ["logits", *(f"layers.{i}.{name}" for i, name in kept)]
    for (i, name), row in zip(kept, rows, strict=True):
        buffer = cache.buffers[i][name]
        for b, count in enumerate(lengths.tolist()):
            close(row[b, :count], buffer[b, :count])


def test_a_checkpoint_goes_in_as_constants(export: Export, packages: Any, tmp_path: Path) -> None:
    built = packages("tiny-llama")
    model = fresh(built, torch.float32)
    built.save(model, tmp_path / "checkpoint")
    module = export("tiny-llama", shallow, tokens=5, weights=tmp_path / "checkpoint")
    assert [a["name"] for a in module.signature["arguments"]] == ["tokens", "lengths"]
    tokens = prompt(built, 1, 5)
    logits, *_ = run(module.text, arrays([tokens, torch.tensor([5])]))
    close(logits, model.prefill(tokens, model.new_cache(1, 5)))


def test_a_module_has_the_types_of_its_spec_and_tells_its_arguments(export: Export) -> None:
    """Weights and cache in bfloat16, products summed in float32."""

    def narrow(page: str, /) -> str:
        return page.replace("dtype: float32", "dtype: bfloat16")

    module = export("tiny-deepseek-v3", narrow, tokens=4)
    (parameters,) = re.findall(r"func\.func @prefill\((.*)\) ->", module.text)
    short = {"bfloat16": "bf16", "float32": "f32", "int64": "i64"}
    arguments = module.signature["arguments"]
    for i, (argument, given) in enumerate(
        zip(arguments, re.findall(r"tensor<([^>]*)>", parameters), strict=True)
    ):
        assert given == "x".join([*map(str, argument["shape"]), short[argument["dtype"]]])
        assert f"//   %arg{i} {argument['name']}: {argument['dtype']} " in module.text
    dtypes = {argument["name"].split(".")[-1]: argument["dtype"] for argument in arguments}
    assert (dtypes["embed"], dtypes["router_bias"]) == ("bfloat16", "float32")
    products = r"linalg\.(?:batch_)?matmul.* outs\(%\S+ : tensor<\S*x(\w+)>\)"
    sums = re.findall(products, module.text)
    assert len(sums) > 20
    assert set(sums) == {"f32"}


def test_the_document_works(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command writes, in another process, the same bytes; its code runs them."""
    text = (ROOT / "docs" / "export.md").read_text()
    (line,) = re.findall(r"^    archsmith (.*)$", text, re.MULTILINE)
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.syspath_prepend(str(tmp_path))

    command = [sys.executable, "-m", "archsmith.compiler", *shlex.split(line), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    module = export("tiny-llama")
    assert json.loads(done.stdout) == module.signature
    assert Path("model.mlir").read_text() == module.text
    ops = re.sub(r"^//.*", "", module.text, flags=re.MULTILINE)
    assert "func.func @prefill" in ops
    assert not re.search(r"loc\(|/", ops)  # no place of this machine

    compiler = Compiler.installed("cpu", numeric=False)
    pipeline, passes = compiler.passes(None)
    spec = compiler.load(EXAMPLES / "tiny-llama.yaml")
    compiler.package(spec, tmp_path / "tiny_llama", pipeline, passes, prove=False)
    names: dict[str, Any] = {}
    exec(code, names)
    model, tokens = names["model"], torch.from_numpy(names["tokens"])
    wanted = model.prefill(tokens, model.new_cache(1, 16), names["lengths"].tolist())
    close(names["logits"].to_host(), wanted)
    assert len(names["rows"]) == len(module.signature["results"]) - 1
