"""What `explain` says: of codes, and of what a pass does."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.spec.explain import codes
from click.testing import CliRunner, Result

EXAMPLES = Path(__file__).parents[1] / "examples"


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


def test_every_code_has_a_page() -> None:
    for code in codes():
        result = explain(code)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"# {code}: ")


def test_explain_says_why_a_pass_left_something_alone() -> None:
    result = explain(str(EXAMPLES / "tiny-deepseek-v2.yaml"), "--pass", "fuse-add-rms-norm")
    why = "left alone dense/%latent_2: %latent is a split, the pattern wants an add"
    assert why in result.stdout


@pytest.mark.parametrize(
    ("pass_name", "target", "said"),
    [
        ("fuse-append", "h200", "applies 2 times"),
        # Which is lossy, and judged elsewhere.
        ("quantize-experts", "cpu", "changed sparse/%fused_experts: "),
    ],
)
def test_explain_says_what_a_pass_does_for_a_target(pass_name: str, target: str, said: str) -> None:
    page = str(EXAMPLES / "tiny-deepseek-v2.yaml")
    result = explain(page, "--pass", pass_name, "--target", target)
    assert said in result.stdout
