"""Scalings of rope that cannot be computed, and pipelines of passes that are not there."""

from __future__ import annotations

import pytest
from archsmith.compiler.spec.diagnostics import SpecError
from archsmith.compiler.spec.load import Kinds, check, loads
from archsmith.compiler.spec.source import parse

PAGE = """\
archsmith: 1
name: tiny
dtype: float32
vocab_size: 64
hidden_size: 32
max_positions: 64
layers: [{repeat: 1, block: layer}]
blocks:
  layer: [{norm: rms, use: attention}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-6}
  attention: {kind: gqa, heads: 2, kv_heads: 1, head_dim: 8, rope: ROPE}
final_norm: rms
head: {tied: true}
"""
YARN = "kind: yarn, factor: 4, original_max_positions: 32"
LONGROPE = "kind: longrope, factor: 2, short_factor: [1, 1, 1, 1], original_max_positions"
LLAMA3 = "kind: llama3, factor: 8, original_max_positions: 32, low_freq_factor: 2"


@pytest.mark.parametrize(
    ("theta", "scaling", "message"),
    [
        ("1", YARN, "theta (1) must be above 1 for yarn"),
        ("100", f"{YARN}, beta_fast: 1, beta_slow: 32", "beta_fast (1) must be above beta_slow"),
        ("100", f"{LLAMA3}, high_freq_factor: 2", "high_freq_factor (2) must be above"),
        ("100", f"{LONGROPE}: 1, long_factor: [1, 1, 2, 3]", "(1) must be above 1"),
        ("100", f"{LONGROPE}: 32, long_factor: [1, 2]", "long_factor has 2 factors, 4 pairs"),
        ("100", f"{LONGROPE}: 32, long_factor: [1, 2, 3, -1]", "long_factor[3] (-1) must be"),
    ],
)
def test_what_cannot_be_computed(theta: str, scaling: str, message: str, kinds: Kinds) -> None:
    rope = f"{{theta: {theta}, interleaved: false, scaling: {{{scaling}}}}}"
    with pytest.raises(SpecError) as wrong:
        loads(PAGE.replace("ROPE", rope), "page.yaml", kinds)
    (found,) = wrong.value.diagnostics
    assert found.code == "E0204"
    assert message in found.message
    assert found.span is not None
    assert found.span.line == 12


def test_a_pass_that_is_not_there(kinds: Kinds) -> None:
    page = PAGE.replace(", rope: ROPE", "") + "pipeline: [pack, fuse]\n"
    spec, found = check(parse(page, "page.yaml"), kinds, passes=("pack", "fuse-all"))
    assert spec is None
    assert [(d.code, d.span and (d.span.line, d.span.column)) for d in found] == [
        ("E0217", (15, 18))
    ]


def test_items_of_a_pipeline(kinds: Kinds) -> None:
    """Options, places and pipelines may stand there; each name is looked up."""
    page = PAGE.replace(", rope: ROPE", "") + "pipeline: [O1, 'pack{size=2}', ITEM]\n"
    known = ("O1", "pack", "fuse")
    good = page.replace("ITEM", "fuse before pack")
    assert check(parse(good, "page.yaml"), kinds, passes=known)[0] is not None
    for item, code, says in (
        ("O3", "E0217", "no pass or pipeline is called `O3`"),
        ("fuse after pac", "E0217", "no pass or pipeline is called `pac`"),
        ("fuse beside pack", "E0206", "`fuse beside pack` is no item of a pipeline"),
    ):
        wrong = parse(page.replace("ITEM", item), "page.yaml")
        _, found = check(wrong, kinds, passes=known)
        assert [(d.code, d.message) for d in found] == [(code, says)]
