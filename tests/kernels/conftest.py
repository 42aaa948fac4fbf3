"""What tests of kernels share."""

from __future__ import annotations

import pytest
from archsmith.compiler.plugins import Registry
from kernels.recorded import Ahead


@pytest.fixture(scope="session")
def ahead(registry: Registry, pytestconfig: pytest.Config) -> Ahead:
    return Ahead(registry, bool(pytestconfig.getoption("--update-ahead")))
