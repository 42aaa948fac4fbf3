"""The proof of packages sees a draft: what breaks in its emission is found, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ProofError

SPEC = Path(__file__).with_name("tiny-mtp.yaml")
DIFFERS = "differs from the graph: block "
WRONG = [
    ("{{ module.draft_call }}\n", "", DIFFERS + "head, what it returns by .* in train"),
    ("_draft(tokens, hidden, _p", "_draft(tokens, hidden, 2 * _p", DIFFERS + "sparse, .* in train"),
    ("step.positions, step)", "step.positions, None)", DIFFERS + "sparse, .* in chunked prefill"),
]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("old", "new", "found"), WRONG)
def test_a_wrong_draft_is_found(
    old: str, new: str, found: str, compiler: Compiler, tmp_path: Path
) -> None:
    text = compiler.registry.templates["draft.py"]
    assert old in text
    compiler.registry.templates["draft.py"] = text.replace(old, new)
    name, passes = compiler.passes("O0")
    with pytest.raises(ProofError, match=found):
        compiler.package(compiler.load(SPEC), tmp_path / "package", name, passes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_process")
def test_a_right_one_is_proved(compiler: Compiler, tmp_path: Path) -> None:
    name, passes = compiler.passes("O2")
    report = compiler.package(compiler.load(SPEC), tmp_path / "package", name, passes)
    assert report.proof is not None
    assert report.proof.trials == 43  # 28 of the model alone, and each of 15 calls for the draft
