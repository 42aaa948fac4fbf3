"""Packages whose weights are computed as a checkpoint is read: what is loaded, and not saved."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from archsmith.compiler.driver import Compiler
from package.tiny import EXAMPLES, Build, close, folder_of, fresh, prompt
from safetensors.torch import load_file, save_file

PASSES = "eliminate-dead,fuse-gate-up,compress-kv,fold-norm-gain,rotate-latent,absorb-attention"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """DeepSeek-V2 with its gains folded and its latent turned."""
    root = tmp_path_factory.mktemp("computed")
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(PASSES)
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v2.yaml")
    compiler.package(spec, root / "computed_deepseek", pipeline, passes, prove=False)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    yield importlib.import_module("computed_deepseek")
    sys.path.remove(str(root))


@pytest.fixture
def checkpoint(package: Build, tmp_path: Path) -> Path:
    """A float64 checkpoint of the same model."""
    plain = package("tiny-deepseek-v2")
    plain.save(fresh(plain), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_it_computes_what_the_model_does(
    package: Build, computed: ModuleType, checkpoint: Path
) -> None:
    plain = package("tiny-deepseek-v2")
    tokens = prompt(plain)
    with torch.no_grad():
        wanted = plain.load(checkpoint, dtype=torch.float64)(tokens)
        close(computed.load(checkpoint, dtype=torch.float64)(tokens), wanted)


def test_gains_may_stand_in_a_later_file(
    package: Build, computed: ModuleType, checkpoint: Path
) -> None:
    whole = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    places = {n: f"{'b' if 'norm' in n else 'a'}.safetensors" for n in whole}
    for file in set(places.values()):
        save_file({n: t for n, t in whole.items() if places[n] == file}, checkpoint / file)
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": places}))
    tokens = prompt(computed)
    with torch.no_grad():
        wanted = package("tiny-deepseek-v2").load(checkpoint, dtype=torch.float64)(tokens)
        close(computed.load(checkpoint, dtype=torch.float64)(tokens), wanted)


def test_products_are_rounded_once(computed: ModuleType, checkpoint: Path) -> None:
    whole = load_file(checkpoint / "model.safetensors")
    narrow = {name: tensor.bfloat16() for name, tensor in whole.items()}
    save_file(narrow, checkpoint / "model.safetensors")
    at = "model.layers.1"
    q, gain = narrow[f"{at}.self_attn.q_proj.weight"], narrow[f"{at}.input_layernorm.weight"]
    for dtype in (torch.bfloat16, torch.float32):
        model = computed.load(checkpoint, dtype=dtype)
        wanted = (q.float() * gain.float()).to(dtype)
        assert torch.equal(model.layers[1].q.flatten(0, 1), wanted)
        down = narrow[f"{at}.self_attn.kv_a_proj_with_mqa.weight"]
        turned = computed.computed.rotate((down.float() * gain.float())[:32], 0)
        assert torch.equal(model.layers[1].kv_a[:32], turned.to(dtype))
    early = ((down * gain)[:32]).float()  # what is rounded before it is turned
    assert not torch.equal(model.layers[1].kv_a[:32], computed.computed.rotate(early, 0))


def test_saving_names_a_parameter_and_the_step(computed: ModuleType, tmp_path: Path) -> None:
    model = fresh(computed)
    with pytest.raises(ValueError, match=r"layers\.0\.q holds .*q_proj\.weight after scale, which"):
        computed.save(model, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    entries = [
        entry for entry in computed.weights.tensors(model) if entry[0].endswith("mqa.weight")
    ]
    with pytest.raises(ValueError, match=r"layers\.0\.kv_a holds .* after scale, rotate, which"):
        computed.computed.only_moved(model, entries)


def test_a_gain_that_is_missing_or_misshapen_is_named(
    computed: ModuleType, checkpoint: Path
) -> None:
    whole = load_file(checkpoint / "model.safetensors")
    del whole["model.norm.weight"]
    whole["model.layers.0.input_layernorm.weight"] = torch.ones(3)
    save_file(whole, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold this model's weights") as wrong:
        computed.load(checkpoint)
    said = str(wrong.value)
    assert "missing (1):\n    model.norm.weight" in said
    assert "model.layers.0.input_layernorm.weight in model.safetensors: [3], not [72]" in said


def test_its_own_tests_pass(computed: ModuleType) -> None:
    folder = folder_of(computed)
    done = subprocess.run(
        [sys.executable, "-m", f"{folder.name}.tests.test_package"],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "OK (skipped=3)" in done.stderr  # those that record CUDA graphs


@pytest.mark.parametrize("command", [("format", "--check"), ("check", "--select=F,I,UP,B")])
def test_it_reads_as_its_owner_would_write_it(
    computed: ModuleType, command: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", *command),
            *("--isolated", "--line-length=100", folder_of(computed)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
