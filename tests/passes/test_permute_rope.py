"""Reordered rotations at the edge: a single pair of columns, whose half is one column."""

from __future__ import annotations

from pathlib import Path

from archsmith.compiler.driver import Compiler

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_one_pair_of_columns_is_reordered_as_well(tmp_path: Path) -> None:
    page = (EXAMPLES / "tiny-deepseek-v2.yaml").read_text()
    assert "qk_rope_head_dim: 12" in page
    page = page.replace("qk_rope_head_dim: 12", "qk_rope_head_dim: 2")
    (tmp_path / "spec.yaml").write_text(page)
    compiler = Compiler.installed()
    spec = compiler.load(tmp_path / "spec.yaml")
    report = compiler.package(spec, tmp_path / "package", *compiler.passes(None))
    applied = {outcome.name: outcome.applications for outcome in report.outcomes}
    assert applied["permute-rope"] == 2
    assert report.proof is not None
