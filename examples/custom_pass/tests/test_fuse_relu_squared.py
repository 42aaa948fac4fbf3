"""FuseReluSquared on small graphs and on a model: proved, and held to what passes promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.testing import Case, cases, check_pass
from archsmith_relu2.fuse_relu_squared import FuseReluSquared

HERE = Path(__file__).parent


@pytest.mark.parametrize("case", cases(HERE / "fuse_relu_squared.ir"), ids=str)
def test_case(case: Case) -> None:
    case.check(FuseReluSquared())


def test_a_model() -> None:
    assert check_pass(FuseReluSquared(), HERE / "primer.yaml").applications == 1
