"""What tests of kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from archsmith.compiler.plugins import Registry
from kernels.quicker import quicker
from kernels.recorded import Ahead


@pytest.fixture(scope="session", autouse=True)
def _quicker() -> Iterator[None]:
    with quicker():
        yield


@pytest.fixture(scope="session")
def ahead(registry: Registry, pytestconfig: pytest.Config) -> Ahead:
    return Ahead(registry, bool(pytestconfig.getoption("--update-ahead")))
