"""Checkpoints: what is saved is loaded to the bit, and what is wrong is named, all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from package.tiny import TINY, Build, fresh, prompt
from safetensors.torch import load_file, save_file
from torch import Tensor

Checkpoint = tuple[ModuleType, Path]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Write some tensors of a checkpoint anew; None takes one out. `__` stands for a dot."""
    held = load_file(folder / SINGLE)
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        held.pop(name, None)
        if tensor is not None:
            held[name] = tensor.contiguous()
    save_file(held, folder / SINGLE)


def configure(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("example", TINY)
@pytest.mark.parametrize("shard_bytes", [2**40, 60_000])
def test_what_is_saved_is_loaded(
    package: Build, tmp_path: Path, example: str, shard_bytes: int
) -> None:
    built = package(example)
    for dtype in (torch.float32, torch.bfloat16):
        model, folder = fresh(built, dtype), tmp_path / str(dtype)
        built.save(model, folder, shard_bytes=shard_bytes)
        files = sorted(file.name for file in folder.iterdir())
        assert ("model.safetensors" in files) == (shard_bytes > 60_000)
        assert (INDEX in files) == (shard_bytes == 60_000)
        for asked in (dtype, torch.float64):
            again = built.load(folder, dtype=asked)
            assert again.dtype == asked
            found = again.state_dict()
            for name, weight in model.state_dict().items():
                assert torch.equal(found[name].to(weight.dtype), weight), name
        with pytest.raises(FileExistsError, match="has a checkpoint already"):
            built.save(model, folder)
    assert built.load(folder).dtype == built.Config().dtype


def test_every_wrong_tensor_is_named_at_once(checkpoint: Checkpoint) -> None:
    built, folder = checkpoint
    head = load_file(folder / SINGLE)["lm_head.weight"]
    change(
        folder,
        model__norm__weight=None,
        model__layers__2__mlp__experts__3__up_proj__weight=None,
        model__extra__weight=torch.zeros(3),
        model__layers__7__input_layernorm__weight=torch.zeros(3),
        lm_head__weight=head[:, :-1],
        model__embed_tokens__weight=head.to(torch.int32),
    )
    with pytest.raises(ValueError, match="does not hold this model's weights") as wrong:
        built.load(folder)
    found = str(wrong.value).splitlines()[1:]
    assert found == [
        "  misshapen (1):",
        "    lm_head.weight in model.safetensors: [331, 71], not [331, 72]",
        "  missing (2):",
        "    model.layers.2.mlp.experts.3.up_proj.weight",
        "    model.norm.weight",
        "  of an unusable type (1):",
        "    model.embed_tokens.weight in model.safetensors: I32, and config.json has no"
        " quantization_config",
        "  unexpected (2):",
        "    model.extra.weight in model.safetensors",
        "    model.layers.7.input_layernorm.weight in model.safetensors",
    ]


def test_what_may_be_there_is_left_alone(checkpoint: Checkpoint) -> None:
    """Tables of frequencies, and empty tensors: zero shared experts save some."""
    built, folder = checkpoint
    with torch.no_grad():
        wanted = built.load(folder)(prompt(built))
        change(
            folder,
            model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(6),
            model__layers__1__mlp__shared_experts__extra_proj__weight=torch.ones(0, 72),
        )
        assert torch.equal(built.load(folder)(prompt(built)), wanted)


def test_layers_that_predict_further_tokens_are_droppable(package: Build, tmp_path: Path) -> None:
    built = package("tiny-deepseek-v3")
    built.save(fresh(built, torch.float32), tmp_path / "checkpoint")
    change(
        tmp_path / "checkpoint",
        model__layers__3__eh_proj__weight=torch.ones(80, 160),
        model__layers__3__mlp__experts__0__up_proj__weight=torch.ones(40, 80),
    )
    built.load(tmp_path / "checkpoint")
    change(tmp_path / "checkpoint", model__layers__4__eh_proj__weight=torch.ones(80, 160))
    with pytest.raises(ValueError, match=r"unexpected \(1\):\n    model.layers.4.eh_proj.weight"):
        built.load(tmp_path / "checkpoint")


def test_a_tied_head_may_be_there_if_it_is_the_embedding(package: Build, tmp_path: Path) -> None:
    built = package("tiny-llama")
    folder = tmp_path / "checkpoint"
    built.save(fresh(built, torch.float32), folder)
    held = load_file(folder / SINGLE)
    assert "lm_head.weight" not in held
    embed = held["model.embed_tokens.weight"]
    change(folder, lm_head__weight=embed.clone())
    built.load(folder)
    built.load(folder, dtype=torch.bfloat16)
    wrong = embed.clone()
    wrong[-1, -1] += 1
    change(folder, lm_head__weight=wrong)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        built.load(folder)
    change(folder, lm_head__weight=embed[:-1])
    with pytest.raises(ValueError, match=r"lm_head\.weight in .*: \[310, 72\], not \[311, 72\]"):
        built.load(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rms_norm_eps", 1e-5),
        ("routed_scaling_factor", 7.0),
        ("num_experts_per_tok", 3),
        ("topk_group", 1),
        ("hidden_act", "gelu"),
    ],
)
def test_another_meaning_of_the_same_shapes_is_an_error(
    checkpoint: Checkpoint, field: str, value: object
) -> None:
    built, folder = checkpoint
    built.load(folder)
    configure(folder, lambda config: config.update({field: value}))
    with pytest.raises(ValueError, match=rf"another model\n  {field}: {value!r}, not"):
        built.load(folder)


def test_every_field_of_another_meaning_is_named_at_once(checkpoint: Checkpoint) -> None:
    built, folder = checkpoint
    configure(folder, lambda c: c.update(rms_norm_eps=0.1, num_experts_per_tok=3))
    with pytest.raises(ValueError, match="another model") as wrong:
        built.load(folder)
    assert "rms_norm_eps: 0.1" in str(wrong.value)
    assert "num_experts_per_tok: 3" in str(wrong.value)


def old_form(config: dict[str, Any]) -> None:
    """`rope_scaling` and `rope_theta`, as configurations had before `rope_parameters`."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope


def new_form(config: dict[str, Any]) -> None:
    config.pop("rope_theta")
    config.pop("rope_scaling")


@pytest.mark.parametrize("example", ["tiny-llama", "tiny-deepseek-v2", "tiny-mixtral"])
@pytest.mark.parametrize("form", [old_form, new_form])
def test_both_forms_of_a_rope_are_read(
    package: Build, tmp_path: Path, example: str, form: Callable[[dict[str, Any]], None]
) -> None:
    built, folder = package(example), tmp_path / "checkpoint"
    built.save(fresh(built, torch.float32), folder)
    configure(folder, form)
    built.load(folder)

    def hotter(config: dict[str, Any]) -> None:
        place = config if "rope_theta" in config else config["rope_parameters"]
        place["rope_theta"] = 777.0

    def further(config: dict[str, Any]) -> None:
        config.get("rope_parameters", config["rope_scaling"] if form is old_form else {})[
            "factor"
        ] = 3.0

    configure(folder, hotter)
    with pytest.raises(ValueError, match=r"rope_parameters\.rope_theta: 777\.0, not"):
        built.load(folder)
    if example != "tiny-mixtral":
        configure(folder, further)
        with pytest.raises(ValueError, match=r"rope_parameters\.factor: 3\.0, not"):
            built.load(folder)


@pytest.mark.parametrize(
    "field", ["rope_theta", "factor", "low_freq_factor", "partial_rotary_factor"]
)
def test_a_zero_of_a_rope_is_a_number_like_others(
    field: str, package: Build, tmp_path: Path
) -> None:
    built, folder = package("tiny-llama"), tmp_path / "checkpoint"
    built.save(fresh(built, torch.float32), folder)
    configure(folder, lambda config: config["rope_parameters"].update({field: 0.0}))
    with pytest.raises(ValueError, match=rf"rope_parameters\.{field}: 0\.0, not"):
        built.load(folder)
