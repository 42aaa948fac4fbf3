"""Builds that may be broken on purpose, and whose proofs take no new process."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.plugins import Registry


def run_here(command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
    """A stand-in for the child process, since importing torch would take most of its time."""
    script, package = command[1:]
    before = os.getcwd(), list(sys.path), list(sys.argv), torch.get_num_threads()
    status, told = 0, ""
    try:
        os.chdir(cwd)
        sys.argv = [script, package]
        importlib.invalidate_caches()
        runpy.run_path(script, run_name="__main__")
    except Exception:
        status, told = 1, traceback.format_exc()
    finally:
        os.chdir(before[0])
        sys.path[:], sys.argv = before[1:3]
        torch.set_num_threads(before[3])
        for loaded in [m for m in sys.modules if m.partition(".")[0] == package]:
            del sys.modules[loaded]
    return subprocess.CompletedProcess(command, status, "", told)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("archsmith.compiler.emit.prove.subprocess", SimpleNamespace(run=run_here))


@pytest.fixture
def compiler(in_process: None) -> Compiler:
    """With a registry of its own, to be broken."""
    registry = Registry.installed()
    registry = replace(registry, kernels=dict(registry.kernels), templates=dict(registry.templates))
    return Compiler(registry, registry.targets["cpu"], numeric=False)
