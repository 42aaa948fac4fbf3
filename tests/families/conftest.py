"""What the tests of model families share."""

from __future__ import annotations

import pytest
from archsmith.compiler.components.component import Component
from archsmith.compiler.components.gqa import Gqa
from archsmith.compiler.components.mla import Mla
from archsmith.compiler.components.moe import Moe
from archsmith.compiler.components.norm import RmsNorm
from archsmith.compiler.components.swiglu import Swiglu
from archsmith.compiler.families.deepseek_v2 import DeepseekV2
from archsmith.compiler.families.deepseek_v3 import DeepseekV3
from archsmith.compiler.families.family import Family
from archsmith.compiler.families.llama import Llama
from archsmith.compiler.families.mixtral import Mixtral
from archsmith.compiler.families.qwen3_moe import Qwen3Moe


@pytest.fixture(scope="session")
def families() -> dict[str, type[Family]]:
    """The built-in families by name."""
    return {family.name: family for family in (DeepseekV2, DeepseekV3, Llama, Mixtral, Qwen3Moe)}


@pytest.fixture(scope="session")
def kinds() -> dict[str, type[Component]]:
    """The built-in components that the families' specs are made of."""
    return {kind.kind: kind for kind in (Gqa, Mla, Moe, RmsNorm, Swiglu)}
