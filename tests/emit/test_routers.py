"""Which choices of experts are recorded, and what they are called."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.routers import described, recorded
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry

HEAD = """\
block b
  param %router = ref("router", (4~3, 8~3)) : float32[4~3, 8~3]
  param %bias = ref("bias", (4~3)) : float32[4~3]
  graph train, prefill, decode
    %x = input : float32[B, T, 8~3]
    %positions = input : int64[B, T]
"""
CHOICE = 'score="sigmoid", top_k=3~2, always=1) : int64[B, T, 4~3], float32[B, T, 4~3]'
LOGITS = '%logits = einsum(%x, %router, equation="btd,ed->bte") : float32[B, T, 4~3]'
SCALED = "%moved = scale(%bias, factor=2.0) : float32[4~3]"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([f"%index, %weight = router(%x, %router, %bias, {CHOICE}"], {"index": "router"}),
        (["# moe", LOGITS, f"%index, %weight = route(%logits, {CHOICE}"], {"index": "moe"}),
        (
            [
                "# moe",
                LOGITS,
                f"%index, %weight = route(%logits, {CHOICE}",
                f"%index_2, %weight_2 = route(%logits, %bias, {CHOICE}",
                "# other",
                f"%index_3, %weight_3 = router(%x, %router, {CHOICE}",
            ],
            {"index": "moe", "index_2": "moe_2", "index_3": "other"},
        ),
        # What is computed of a parameter is none that could be looked up.
        ([LOGITS, SCALED, f"%index, %weight = route(%logits, %moved, {CHOICE}"], {}),
    ],
)
def test_names(lines: list[str], found: dict[str, str], registry: Registry) -> None:
    body = "".join(f"    {line}\n" for line in lines)
    block = parse_model(f"{HEAD}{body}    return %weight\n", registry.ops).blocks["b"]
    assert recorded(block.graph("train")) == found
    assert [str(each.name) for each in described(block, "size")] == [
        f'"{n}"' for n in found.values()
    ]


def test_what_is_said_of_one(registry: Registry) -> None:
    line = f"    %index, %weight = router(%x, %router, %bias, {CHOICE}\n    return %weight\n"
    block = parse_model(HEAD + line, registry.ops).blocks["b"]
    (size,), (probe,) = described(block, "size"), described(block, "probe")
    said = ['score="sigmoid"', "experts=4", "top_k=3", 'weight="router"', 'bias="bias"']
    assert [line.strip(" ,") for line in size.given.lines] == said
    assert [line.strip(" ,") for line in probe.given.lines][1:3] == ["experts=3", "top_k=2"]
