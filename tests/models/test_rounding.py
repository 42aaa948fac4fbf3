"""Passes that compute weights anew, against `transformers`, with a checkpoint that is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.oracle import logits
from models.test_oracle import close, seeded
from models.tiny import cases, save

Build = Callable[..., Any]

BEFORE = "eliminate-dead,defer-add,fuse-add-rms-norm,pack-experts,compress-kv"


@pytest.mark.parametrize(
    ("family", "passes", "computed"),
    [
        ("llama", "fold-norm-gain", {"scale"}),
        ("qwen3_moe", "fold-norm-gain", {"scale"}),
        ("deepseek_v2", "fold-norm-gain,rotate-latent", {"scale", "scale, rotate"}),
        ("deepseek_v3", "fold-norm-gain", {"scale"}),
        (
            "deepseek_v3",
            "fold-norm-gain,rotate-latent,absorb-attention",
            {"scale", "scale, rotate"},
        ),
    ],
)
def test_logits_are_those_of_transformers(
    family: str, passes: str, computed: set[str], build: Build, tmp_path: Path
) -> None:
    case = cases(family)[0]
    reference = save(case, tmp_path / "checkpoint", shards=3)
    tokens = torch.randint(case.fields["vocab_size"], (2, 13), generator=seeded())
    wanted = logits(reference, tokens)
    package = build(tmp_path / "checkpoint", f"{BEFORE},{passes}", "emitted_rounded")
    model = package.load(tmp_path / "checkpoint", dtype=torch.float64)
    steps = {parts[0].steps for _, _, *parts in package.weights.tensors(model) if parts}
    assert steps == computed
    with torch.no_grad():
        close(model(tokens), wanted)
    cache = model.new_cache(2, 13)
    close(model.prefill(tokens[:, :6], cache), wanted[:, 5])
    close(model.prefill(tokens[:, 6:9], cache), wanted[:, 8])  # a second chunk
    for t in range(9, 13):
        close(model.decode(tokens[:, t], cache), wanted[:, t])
