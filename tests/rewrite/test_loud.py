"""What acts on large values alone is compared as well."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from archsmith.compiler.components.building.assemble import assemble
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pipeline import PassFailed, Runner
from archsmith.compiler.rewrite.rewriter import Rewriter
from archsmith.compiler.spec.load import loads

from .test_checker import SPEC


@dataclass(frozen=True)
class Forget(Pass):
    """The clamps of a feed-forward are dropped: none of them is felt where values are near one."""

    name = "forget"

    def run(self, rewriter: Rewriter) -> None:
        for node in list(rewriter.graph.nodes()):
            if node.op is not None and node.op.name == "clamp":
                rewriter.replace(node.results[0], rewriter.graph.operands(node)[0])


def test_a_clamp_that_is_dropped_is_missed(registry: Registry) -> None:
    page = SPEC.replace("swiglu, width: 50", "swiglu, width: 50, clamp: 7.0")
    assert "clamp: 7.0" in page
    model = assemble(loads(page, "page.yaml", registry.components), registry.ops)
    with pytest.raises(PassFailed, match=r"differs by .* in train"):
        Runner(registry.ops).apply(model, Forget())
