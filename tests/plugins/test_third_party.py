"""A third party's package, really installed: found, used, and proved like a built-in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import PluginError
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.load import loads

SPEC = """\
archsmith: 1
name: primer
dtype: float32
vocab_size: 300
hidden_size: 48
max_positions: 256
layers: [{repeat: 2, block: layer}]
blocks:
  layer: [{norm: rms, use: attention}, {norm: rms, use: mlp}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-5}
  attention: {kind: gqa, heads: 4, kv_heads: 2, head_dim: 16}
  mlp: {kind: relu2_mlp, width: 90}
final_norm: rms
head: {tied: true}
pipeline: [fuse-relu-squared]
"""


def test_it_is_found() -> None:
    registry = Registry.installed()
    assert "relu2_mlp" in registry.components
    assert "relu_squared" in registry.ops
    assert "torch.relu_squared" in registry.kernels
    assert "fuse-relu-squared" in registry.passes


def test_its_component_builds_and_its_pass_changes_the_model(tmp_path: Path) -> None:
    compiler = Compiler.installed()
    spec = loads(SPEC, "primer.yaml", compiler.registry.components)
    name, passes = compiler.passes(spec.pipeline)
    report = compiler.package(spec, tmp_path / "primer", name, passes)
    assert report.proof is not None
    assert report.outcomes[0].applications == 1
    text = (tmp_path / "primer" / "model.py").read_text()
    assert "F.relu(F.linear(h, self.up)).square()" in text


def package(tmp_path: Path, name: str, text: str) -> ModuleType:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "thing.py").write_text(text)
    return __import__(name)


CLASH = """
from archsmith.compiler.ir.op import Op

class Add(Op):
    name = "add"
"""


def test_a_clash_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry.installed()
    both = (
        r"op 'add' is defined by both archsmith.compiler.ops.elementwise \(.*\) and clashing.thing"
    )
    with pytest.raises(PluginError, match=both):
        registry.add_package(package(tmp_path, "clashing", CLASH))
    del sys.modules["clashing"], sys.modules["clashing.thing"]


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name, value = "broken", "broken_package"

        def load(self) -> ModuleType:
            raise ImportError("no module named gone")

    monkeypatch.setattr("archsmith.compiler.plugins.entry_points", lambda group: [Entry()])
    with pytest.raises(PluginError, match=r"plugin broken .*gone") as failed:
        Registry.installed()
    assert failed.value.exit_code == 4


def test_importing_registers_nothing() -> None:
    assert Registry().passes == {}
    assert Registry.installed().passes is not Registry.installed().passes


def test_it_passes_its_own_tests(root: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    folder = root / "examples" / "custom_pass"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
