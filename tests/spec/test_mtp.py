"""The layer that predicts one token further, in a spec: what it may say, and its mistakes."""

from __future__ import annotations

import pytest
from archsmith.compiler.spec.load import Kinds, check, loads
from archsmith.compiler.spec.source import parse

PAGE = """\
archsmith: 1
name: tiny
dtype: float32
vocab_size: 11
hidden_size: 8
max_positions: 16
layers: [{repeat: 2, block: plain}]
blocks:
  plain: [{norm: rms, use: mlp}]
  other: [{norm: rms, use: mlp}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-6}
  mlp: {kind: swiglu, width: 12}
final_norm: rms
head: {tied: false}
mtp: {block: other, norm: rms}
"""
WRONG = [
    ("block: other", "block: otter", "E0207", "otter", "no block is called `otter`"),
    ("other, norm: rms", "other, norm: rsm", "E0207", "rsm", "no part is called `rsm`"),
    ("other, norm: rms", "other, norm: mlp", "E0209", "mlp", "the part `mlp` is not a norm"),
    ("other, norm: rms", "other", "E0202", "{", "mtp lacks `norm`"),
    ("{block: other, ", "{depth: 2, block: other, ", "E0203", "depth", "no field `depth`"),
    ("{block: other, norm: rms}", "true", "E0201", "true", "mtp must be a map, not `true`"),
    ("block: other", "block: [plain, other]", "E0201", "[", "block must be text, not a list"),
    ("  other:", "  draft_norm:", "E0206", "draft_norm", "the name of a block"),
]


def test_a_block_that_is_used_there_alone_is_used(kinds: Kinds) -> None:
    spec, found = check(parse(PAGE, "spec.yaml"), kinds)
    assert spec is not None
    assert not found
    assert spec.mtp is not None
    assert (spec.mtp.block, spec.mtp.norm, spec.layer_count) == ("other", "rms", 2)
    (unused,) = check(parse(PAGE.replace("\nmtp:", "\n#"), "spec.yaml"), kinds)[1]
    assert unused.code == "E0215"
    assert loads(PAGE.replace("\nmtp:", "\n#"), "spec.yaml", kinds).mtp is None


@pytest.mark.parametrize(("old", "new", "code", "shown", "message"), WRONG)
def test_a_mistake_is_named_where_it_is(
    old: str, new: str, code: str, shown: str, message: str, kinds: Kinds
) -> None:
    page = PAGE.replace(old, new)
    spec, found = check(parse(page, "spec.yaml"), kinds)
    assert spec is None
    (mistake,) = [item for item in found if item.code == code]
    assert message in mistake.message
    assert mistake.span is not None
    line = page.splitlines()[mistake.span.line - 1]
    assert line[mistake.span.column - 1 :].startswith(shown)
