"""What a spec says, by hand: factors, norms, biases and parts that no family here has."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from archsmith.compiler.driver import Compiler
from archsmith.compiler.spec.load import from_tree
from torch import Tensor

NORM = {"kind": "layer_norm", "eps": 1e-2, "bias": True, "offset": 1}
ATTENTION = {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 5, "bias": "o", "clip": 0.6}
SPEC: dict[str, Any] = {
    "archsmith": 1,
    "name": "meant",
    "dtype": "float64",
    "vocab_size": 31,
    "hidden_size": 12,
    "max_positions": 16,
    "layers": [{"repeat": 1, "block": "layer"}],
    "blocks": {"layer": [{"norm": "norm", "use": ["attention", "mlp"], "scale": 0.3}]},
    "parts": {
        "norm": NORM,
        "plain": {"kind": "layer_norm", "eps": 1e-2, "gain": False},
        "attention": ATTENTION,
        "mlp": {"kind": "mlp", "width": 14, "activation": "relu_squared", "bias": True},
    },
    "final_norm": "plain",
    "head": {"tied": False, "bias": True, "scale": 0.5, "softcap": 2.0},
    "embed": {"scale": 2.5},
}


def by_hand(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The logits [B, T, vocab] of a parallel block of attention and an MLP."""
    x = weights["embed"][tokens] * 2.5
    block = {name.removeprefix("layers.0."): weight for name, weight in weights.items()}
    h = F.layer_norm(x, (12,), block["attention_norm"] + 1, block["attention_norm_bias"], 1e-2)
    q, k, v = (
        torch.einsum("btd,hkd->bhtk", h, block[name]).clamp(-0.6, 0.6) for name in ("q", "k", "v")
    )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    attended = torch.einsum("bhtk,dhk->btd", out, block["o"]) + block["o_bias"]
    lifted = F.linear(h, block["up"], block["up_bias"]).relu() ** 2
    x = x + 0.3 * (attended + F.linear(lifted, block["down"], block["down_bias"]))
    normed = F.layer_norm(x, (12,), eps=1e-2)
    logits = 0.5 * F.linear(normed, weights["head"], weights["head_bias"])
    return 2.0 * (logits / 2.0).tanh()


def test_a_spec_means_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler.installed(numeric=False)
    spec = from_tree(SPEC, compiler.registry.components)
    name, passes = compiler.passes("O0")
    compiler.package(spec, tmp_path / "meant", name, passes, prove=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("meant")
    torch.manual_seed(3)
    model = package.Model(package.Config())
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.7)
        tokens = torch.randint(31, (2, 7))
        wanted = by_hand(dict(model.named_parameters()), tokens)
        assert (model(tokens) - wanted).abs().max() < 1e-12
    for loaded in [module for module in sys.modules if module.split(".")[0] == "meant"]:
        del sys.modules[loaded]
