"""Which passes a pipeline's text names, and what is said of one that names none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.rewrite.order import resolve
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Tile(Pass):
    """Nothing, with options."""

    name = "tile"
    size: int = 4
    deep: bool = False
    kind: str = "row"

    def run(self, rewriter: Rewriter) -> None: ...


@dataclass(frozen=True)
class Other(Pass):
    name = "other"

    def run(self, rewriter: Rewriter) -> None: ...


PASSES = {"tile": Tile, "other": Other}
PIPELINES = {"O0": (), "O1": ("other", "tile{size=8}")}


def test_a_pipeline_by_name() -> None:
    assert resolve("O0", PASSES, PIPELINES) == []
    assert resolve("O1", PASSES, PIPELINES) == [Other(), Tile(size=8)]


def test_a_list_with_options() -> None:
    wanted = [Tile(2, True, "column"), Other()]
    assert resolve("tile{size=2, deep=true, kind=column}, other", PASSES, PIPELINES) == wanted
    assert resolve(["other", "tile"], PASSES, PIPELINES) == [Other(), Tile()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiles", "did you mean `tile`"),
        ("O3", "pipelines and passes: O0, O1, other, tile"),
        ("tile{width=2}", "has no option `width`; it has size, deep, kind"),
        ("tile{size=big}", "size is no int: `big`"),
        ("other{size=1}", "it has none"),
        ("tile{size", "no pass or pipeline is called"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ArchsmithError, match=message.replace("(", r"\(")):
        resolve(text, PASSES, PIPELINES)
