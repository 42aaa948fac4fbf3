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
PIPELINES = {
    "O0": (),
    "O1": ("other", "tile{size=8}"),
    "both": ("O1", "other before tile", "O0"),
    "egg": ("other", "hen"),
    "hen": ("egg",),
}


def test_a_pipeline_by_name() -> None:
    assert resolve("O0", PASSES, PIPELINES) == []
    assert resolve("O1", PASSES, PIPELINES) == [Other(), Tile(size=8)]


def test_a_list_with_options() -> None:
    wanted = [Tile(2, True, "column"), Other()]
    assert resolve("tile{size=2, deep=true, kind=column}, other", PASSES, PIPELINES) == wanted
    assert resolve(["other", "tile"], PASSES, PIPELINES) == [Other(), Tile()]


def test_pipelines_stand_in_lists_and_in_one_another() -> None:
    one = [Other(), Tile(size=8)]
    assert resolve("O0,tile,O1,O0", PASSES, PIPELINES) == [Tile(), *one]
    assert resolve(["O1", "O1"], PASSES, PIPELINES) == [*one, *one]
    assert resolve("both", PASSES, PIPELINES) == [Other(), Other(), Tile(size=8)]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("O1,tile{size=1} before tile", [0, 1, 8]),
        ("O1, tile{size=1} before other", [1, 0, 8]),
        ("O1,tile{size=1}  after other ", [0, 1, 8]),
        ("tile,O1,tile{size=1} after tile", [4, 0, 8, 1]),
        ("tile,O1,tile{size=1} before tile", [1, 4, 0, 8]),
        ("tile,O1 before tile", [0, 8, 4]),
    ],
)
def test_an_item_has_a_place(text: str, sizes: list[int]) -> None:
    made = resolve(text, PASSES, PIPELINES)
    assert [p.size if isinstance(p, Tile) else 0 for p in made] == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiles", "did you mean `tile`"),
        ("O3", "pipelines and passes: O0, O1, both, egg, hen, other, tile"),
        ("tile{width=2}", "has no option `width`; it has size, deep, kind"),
        ("tile{size=big}", "size is no int: `big`"),
        ("other{size=1}", "it has none"),
        ("tile{size", "no pass or pipeline is called"),
        ("hen", "the pipeline `hen` has itself in it: hen -> egg -> hen"),
        ("O1{size=1}", "no pass or pipeline is called"),
        ("tile,other after O1", "`other after O1`: `O1` is not in the list before it"),
        (
            "other before tile,tile",
            "is not in the list before it\n  = help: there are no passes before it",
        ),
        ("tile,other beside tile", "no pass or pipeline is called `other beside tile`"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ArchsmithError, match=message.replace("(", r"\(")):
        resolve(text, PASSES, PIPELINES)
