"""What the tests of model families share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from archsmith.compiler.components.component import Component
from archsmith.compiler.families.family import Family
from archsmith.compiler.plugins import Registry


@pytest.fixture(scope="session")
def families() -> Mapping[str, type[Family]]:
    """The families by name."""
    return Registry.installed().families


@pytest.fixture(scope="session")
def kinds() -> Mapping[str, type[Component]]:
    """The components by kind."""
    return Registry.installed().components
