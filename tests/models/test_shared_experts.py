"""Shared experts among the routed: the logits of `transformers`, and checkpoints to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.oracle import logits
from models.tiny import cases, save
from safetensors.torch import load_file

Build = Callable[..., Any]

FIRST = "fold-shared-experts,fuse-routing,fuse-expert-gate-up"
LAST = (
    "defer-add,fuse-add-rms-norm,fuse-gate-up,fuse-expert-gate-up,pack-experts,"
    "fuse-gated-activation,fuse-routing,fold-shared-experts"
)
EXACT = 1e-8  # of the largest logit, in float64; errors seen are near 1e-15


def folder_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}


@pytest.mark.parametrize("pipeline", [FIRST, LAST, "fold-shared-experts"])
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_folded_experts(family: str, pipeline: str, build: Build, tmp_path: Path) -> None:
    case = cases(family)[0]
    reference = save(case, tmp_path / "checkpoint", dtype=torch.bfloat16)
    tokens = torch.randint(case.fields["vocab_size"], (2, 9), generator=seeded())
    wanted = logits(reference, tokens)
    package = build(tmp_path / "checkpoint", f"eliminate-dead,{pipeline}", "emitted_folded")
    model = package.load(tmp_path / "checkpoint", dtype=torch.float64)
    assert not any("shared" in name for name, _ in model.named_parameters())

    def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
        assert (found - wanted).abs().max() <= EXACT * wanted.abs().max()

    with torch.no_grad():
        close(model(tokens), wanted)
    cache = model.new_cache(2, 9)
    close(model.prefill(tokens[:, :6], cache), wanted[:, 5])
    for t in range(6, 9):
        close(model.decode(tokens[:, t], cache), wanted[:, t])

    package.save(package.load(tmp_path / "checkpoint"), tmp_path / "again")
    given, found = (folder_of(tmp_path / name) for name in ("checkpoint", "again"))
    assert found.keys() == given.keys()
    assert any("shared_experts.down_proj" in name for name in found)
    for name, tensor in given.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)
