"""A layer that predicts one token further, made of the layers of `transformers`, which has none."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from models.oracle import Float64
from models.tiny import Case, make
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RMSNorm,
)


class Draft(nn.Module):
    """DeepSeek-V3's Multi-Token Prediction of one depth (arXiv:2412.19437, section 2.2).

    Modules are called as checkpoints call them. The embedding and the head are the model's.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = copy.copy(model.config)
        width, eps = config.hidden_size, config.rms_norm_eps
        with Float64():
            self.enorm = DeepseekV3RMSNorm(width, eps)
            self.hnorm = DeepseekV3RMSNorm(width, eps)
            self.eh_proj = nn.Linear(2 * width, width, bias=False)
            self.layer = DeepseekV3DecoderLayer(config, config.num_hidden_layers)
            self.norm = DeepseekV3RMSNorm(width, eps)
        self.double().eval()
        self.model = [model]  # in a list, so that its weights are not this module's

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Tokens int64 [B, T], and what the head read before each -> what it reads, [B, T, D]."""
        (model,) = self.model
        positions = torch.arange(tokens.shape[1])[None]
        mask = torch.full((tokens.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
        with torch.no_grad(), Float64():
            both = self.enorm(model.model.embed_tokens(tokens)), self.hnorm(hidden)
            x = self.eh_proj(torch.cat(both, -1))
            x = self.layer(
                x,
                attention_mask=mask[None, None],
                position_ids=positions,
                position_embeddings=model.model.rotary_emb(x, positions),
            )
            return self.norm(x)  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by the names that a checkpoint has them under, copies included."""
        (model,) = self.model
        found = {name.removeprefix("layer."): x for name, x in self.state_dict().items()}
        found["shared_head.norm.weight"] = found.pop("norm.weight")
        found["shared_head.head.weight"] = model.lm_head.weight.detach().clone()
        found["embed_tokens.weight"] = model.model.embed_tokens.weight.detach().clone()
        at = f"model.layers.{model.config.num_hidden_layers}"
        return {f"{at}.{name}": tensor for name, tensor in found.items()}


def hidden_of(model: Any, tokens: Tensor) -> Tensor:
    """What a model's head reads after each token, [B, T, D]."""
    with torch.no_grad(), Float64():
        return model.model(tokens, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def save_with_draft(case: Case, folder: Path) -> tuple[Any, Draft]:
    """Save a tiny model with its draft as one checkpoint of float64; return both."""
    model = make(case)
    draft = Draft(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in draft.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.dim() == 1:
                tensor.copy_(0.3 * noise if name.endswith("bias") else 1 + 0.3 * noise)
            else:
                tensor.copy_(noise / tensor.shape[-1] ** 0.5)
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(tensor.float())
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    unpacked = {}
    for name, tensor in draft.tensors().items():
        unpacked |= _apart(name, tensor)
    save_file(load_file(file) | unpacked, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    return model, draft


def _apart(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A module's tensor as checkpoints have it, that keep each expert's weights apart."""
    if name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, 1)
        return {
            name.replace("gate_up_proj", f"{e}.{what}_proj.weight"): weights[e].clone()
            for what, weights in (("gate", gate), ("up", up))
            for e in range(len(tensor))
        }
    if name.endswith("experts.down_proj"):
        return {
            name.replace("down_proj", f"{e}.down_proj.weight"): expert.clone()
            for e, expert in enumerate(tensor)
        }
    return {name: tensor}
