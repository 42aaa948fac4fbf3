"""The demo runs, and shows what it should."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.emit.aot import SCRIPT, Compiled
from archsmith.compiler.plugins import Registry
from kernels.recorded import Ahead


def test_the_demo(
    root: Path,
    tmp_path: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What its kernels compile to is on record, and compiled by other tests."""

    def recorded(
        files: Mapping[str, str], calls: Sequence[Any], triton: object, script: str, **_: object
    ) -> list[Compiled]:
        target = registry.targets["h200"]
        assert (triton, script) == (target.triton, registry.templates[SCRIPT])
        # But for what each file's first comment says of who wrote it.
        said = "# deepseek-v2-lite for , written by archsmith 0 with pipeline O2.\n"
        files = {path: re.sub(r"\A(# .*\n)+", said, text) for path, text in files.items()}
        return Ahead(registry, record=False)("deepseek-v2-lite", files, calls, target)

    monkeypatch.setattr("archsmith.compiler.emit.aot.compile_ahead", recorded)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(root / "examples" / "demo.py"), run_name="__main__")
    finally:
        for loaded in [name for name in sys.modules if name.startswith("tiny_deepseek_v2")]:
            del sys.modules[loaded]
    told = capsys.readouterr().out
    for shown in ("kind: mla", "class Sparse(nn.Module)", "15,706,484,224", "comparisons, error"):
        assert shown in told
    assert "attend_tile" in told  # of the kernels that were compiled
    assert (tmp_path / "build" / "demo" / "tiny_deepseek_v2" / "plan.json").is_file()
