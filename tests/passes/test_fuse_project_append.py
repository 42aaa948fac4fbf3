"""Targets on which products and what is appended of them stay apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.plugins import Registry
from archsmith.compiler.testing import cases, check_pass


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("cpu", "launches no kernel that would do both at once"),
        ("mi300x", "cannot tell that it is the last of several"),
    ],
)
def test_targets(target: str, why: str, registry: Registry) -> None:
    first, *_ = cases(Path(__file__).with_name("fuse_project_append.ir"))
    plugin, chip = registry.passes[first.name](), registry.targets[target]
    check_pass(plugin, first.before, after=first.before, refuses=why, target=chip)
