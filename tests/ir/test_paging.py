"""Which contexts are handed out in pages: only where all that read them read pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.errors import ArchsmithError, GraphError
from archsmith.compiler.ir.model import Block, Model
from archsmith.compiler.ir.paging import lying, paged
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.testing import cases

FILE = Path(__file__).parents[1] / "passes" / "page_cache.ir"


def block(registry: Registry, title: str, *changes: tuple[str, str]) -> Block:
    """The block of a pair after its pass, changed."""
    (text,) = (case.after for case in cases(FILE) if title in case.title)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_model(text, registry.ops).blocks["b"]


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("heads of keys", {"keys", "values", "out"}),
        ("a latent", {"kv", "out"}),
        ("float8", {"n", "s", "r", "out"}),
        ("window", set()),
    ],
)
def test_what_attention_reads_as_it_lies(registry: Registry, title: str, found: set[str]) -> None:
    made = block(registry, title)
    assert lying(made, made.graph("decode")) == found
    if found:
        assert not lying(made, made.graph("prefill"))


@pytest.mark.parametrize(
    ("title", "old", "new"),
    [
        ("a window", "window=30~4)", "window=30~4, page=64~2)"),
        ("what is computed", "scale=0.25)", "scale=0.25, page=64~2)"),
        ("read as rows", "%keys, %values, %positions, ", "%keys, %values, %positions, page=64~2, "),
    ],
)
def test_a_mark_that_leads_nowhere(registry: Registry, title: str, old: str, new: str) -> None:
    """Rings stay rings, and what reads rows is given rows."""
    made = block(registry, title, (old, new))
    assert not lying(made, made.graph("decode"))
    assert paged(Model("m", "bfloat16", {"b": made})) is None


def test_all_pages_are_of_one_size(registry: Registry) -> None:
    one, other = (block(registry, "heads of keys", ("page=64~2", f"page={n}~2")) for n in (64, 32))
    found = paged(Model("m", "bfloat16", {"b": one, "c": one}))
    assert found is not None
    assert found.size == 64
    with pytest.raises(GraphError, match="pages are of 64~2 and of 32~2 slots"):
        paged(Model("m", "bfloat16", {"b": one, "c": other}))


def test_a_page_has_a_power_of_two(registry: Registry) -> None:
    for page in (0, 48):
        with pytest.raises(ArchsmithError, match=f"a page of {page} slots is none"):
            registry.passes["page-cache"](page=page)
