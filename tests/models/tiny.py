"""Tiny `transformers` models of each family, no two sizes alike, and their checkpoints."""

from __future__ import annotations

import copy
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .oracle import Float64

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
DEEPSEEK_YARN = {**YARN, "beta_fast": 16, "beta_slow": 2, "mscale": 0.8, "mscale_all_dim": 0.6}

LLAMA = {
    "vocab_size": 101,
    "hidden_size": 42,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
MIXTRAL = LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 22}
QWEN3 = LLAMA | {
    "head_dim": 10,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 18,
    "norm_topk_prob": True,
}
V2 = {
    "vocab_size": 103,
    "hidden_size": 42,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "n_routed_experts": 9,
    "num_experts_per_tok": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
V3 = V2 | {
    "vocab_size": 107,
    "q_lora_rank": 20,
    "n_routed_experts": 12,
    "n_group": 3,
    "topk_group": 2,
    "n_shared_experts": 1,
}
BASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mixtral": MIXTRAL,
    "qwen3_moe": QWEN3,
    "deepseek_v2": V2,
    "deepseek_v3": V3,
}
GROUPED = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}

# What each case changes of its family's base.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "plain": {},
        "heads-5": {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5},
        "head-dim": {"head_dim": 10, "num_attention_heads": 6, "num_key_value_heads": 2},
        "biases": {"attention_bias": True, "mlp_bias": True},
        "attention-bias": {"attention_bias": True, "rms_norm_eps": 1e-3},
        "tied": {"tie_word_embeddings": True, "vocab_size": 97},
        "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500.0},
        "linear": {"rope_scaling": LINEAR},
        "yarn": {"rope_scaling": YARN, "rope_theta": 5000.0},
        "yarn-full": {"rope_scaling": {**DEEPSEEK_YARN, "truncate": False}},
        "yarn-plain-mscale": {"rope_parameters": {**YARN, "rope_type": "yarn", "mscale": 0.7}},
        "gelu": {"hidden_act": "gelu", "num_hidden_layers": 1},
        "gelu-tanh": {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 100.0},
    },
    "mixtral": {
        "plain": {},
        "heads-5": {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5},
        "head-dim": {"head_dim": 10, "num_attention_heads": 6, "num_key_value_heads": 2},
        "window": {"sliding_window": 5},
        "window-1": {"sliding_window": 1, "num_hidden_layers": 1},
        "top-1": {"num_experts_per_tok": 1},
        "all-experts": {"num_experts_per_tok": 5},
        "tied": {"tie_word_embeddings": True, "vocab_size": 97},
        "linear": {"rope_scaling": LINEAR, "rope_theta": 500.0},
        "yarn": {"rope_scaling": YARN, "rms_norm_eps": 1e-3, "head_dim": 12},
        "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 300.0}},
        "gelu": {"hidden_act": "gelu"},
    },
    "qwen3_moe": {
        "plain": {},
        "unnormalized": {"norm_topk_prob": False},
        "heads-5": {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 6},
        "groups": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12},
        "default-head-dim": {"head_dim": 14, "hidden_size": 42},
        "dense-first": {"mlp_only_layers": [0, 2]},
        "every-second": {"decoder_sparse_step": 2, "num_hidden_layers": 5},
        "all-dense": {"mlp_only_layers": [0, 1, 2]},
        "biases": {"attention_bias": True, "rms_norm_eps": 1e-3},
        "tied": {"tie_word_embeddings": True, "vocab_size": 97},
        "yarn": {"rope_scaling": YARN, "rope_theta": 5000.0},
        "llama3": {"rope_scaling": LLAMA3},
        "top-1": {"num_experts_per_tok": 1, "norm_topk_prob": False},
        "unused-window": {"sliding_window": 4, "use_sliding_window": False},
    },
    "deepseek_v2": {
        "plain": {},
        "q-lora": {"q_lora_rank": 20, "rms_norm_eps": 1e-3},
        "grouped": {**GROUPED, "routed_scaling_factor": 3.0},
        "grouped-q-lora": {**GROUPED, "q_lora_rank": 20, "topk_group": 1, "num_experts_per_tok": 2},
        "unused-groups": {"n_group": 3, "topk_group": 1},
        "shared-0": {"n_shared_experts": 0},
        "shared-1": {"n_shared_experts": 1, "routed_scaling_factor": 0.5},
        "all-sparse": {"first_k_dense_replace": 0},
        "all-dense": {"first_k_dense_replace": 5},
        "biases": {"attention_bias": True, "q_lora_rank": 20},
        "bias-no-lora": {"attention_bias": True},
        "tied": {"tie_word_embeddings": True, "vocab_size": 97},
        "yarn": {"rope_scaling": DEEPSEEK_YARN, "rope_theta": 5000.0},
        "yarn-equal": {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
        "linear": {"rope_scaling": LINEAR},
        "heads-5": {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5},
        "said-normalized": {"norm_topk_prob": True},
    },
    "deepseek_v3": {
        "plain": {},
        "no-lora": {"q_lora_rank": None, "rms_norm_eps": 1e-3},
        "one-group": {"n_group": 1, "topk_group": 1},
        "unnormalized": {"norm_topk_prob": False, "routed_scaling_factor": 1.5},
        "shared-0": {"n_shared_experts": 0, "topk_group": 1, "num_experts_per_tok": 3},
        "shared-2": {"n_shared_experts": 2, "n_group": 4, "topk_group": 3},
        "all-sparse": {"first_k_dense_replace": 0},
        "halves": {"rope_interleave": False},
        "halves-yarn": {"rope_interleave": False, "rope_scaling": DEEPSEEK_YARN},
        "biases": {"attention_bias": True},
        "bias-no-lora": {"attention_bias": True, "q_lora_rank": None},
        "tied": {"tie_word_embeddings": True, "vocab_size": 97},
        "yarn": {"rope_scaling": DEEPSEEK_YARN, "rope_theta": 5000.0},
        "yarn-all-dim": {"rope_scaling": {**YARN, "mscale_all_dim": 1.0}},
        "no-mtp": {"num_nextn_predict_layers": 0, "num_hidden_layers": 2},
        "heads-5": {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5},
    },
}


@dataclass(frozen=True)
class Case:
    """A tiny model: its family, what is special in it, and its configuration's fields."""

    family: str
    title: str
    fields: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.family}-{self.title}"


def cases(*families: str) -> list[Case]:
    """Return the cases of these families, of all when none is named."""
    return [
        Case(family, title, BASES[family] | changes)
        for family in families or CHANGES
        for title, changes in CHANGES[family].items()
    ]


def make(case: Case) -> Any:
    """Return a float64 model of random weights: gains and biases too, which start as 1 and 0."""
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    config = AutoConfig.for_model(case.family, **copy.deepcopy(case.fields))
    with Float64(), warnings.catch_warnings():
        # Without shared experts transformers makes weights that have no elements.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float64, attn_implementation="eager"
        )
    model.set_experts_implementation("eager")  # grouped matrix products have no float64
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("norm.weight"):
                tensor.copy_(1 + 0.3 * noise)
            elif name.endswith(("bias", "embed_tokens.weight")):
                tensor.copy_(0.3 * noise)
            elif noise.numel():
                tensor.copy_(noise / tensor.shape[-1] ** 0.5)
    return model.eval()


def save(case: Case, folder: Path, *, dtype: torch.dtype = torch.float64, shards: int = 1) -> Any:
    """Save a model as a checkpoint of `dtype`, and return it in float64.

    The returned model has the checkpoint's rounded weights. As transformers does, the bias of a
    router is never stored narrower than float32. `shards` is about how many files there are.
    """
    model = make(case)
    stored = copy.deepcopy(model).to(dtype)
    for (name, tensor), kept in zip(
        model.state_dict().items(), stored.state_dict().values(), strict=True
    ):
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(tensor.float())
            router = stored.get_submodule(name.rpartition(".")[0])
            router.e_score_correction_bias = tensor.to(torch.promote_types(dtype, torch.float32))
        else:
            tensor.copy_(kept)
    size = sum(tensor.nbytes for tensor in stored.state_dict().values())
    stored.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards)
    return model
