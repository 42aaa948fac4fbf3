"""Emitted packages against `transformers`: the same logits, however the tokens are fed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.convert.checkpoint import ToCheckpoint
from archsmith.compiler.convert.layout import ToLayout
from models.oracle import Float64, logits
from models.tiny import FAMILIES, Case, cases, save
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

Build = Callable[..., Any]
First = Callable[[Case, str], tuple[Any, Path, Any]]

UNSAID = {
    *("_name_or_path", "architectures", "intermediate_size", "max_window_layers", "pad_token_id"),
    *("head_dim", "partial_rotary_factor", "rope_parameters"),  # said in other words
}
"""What `save` does not say of a configuration as it was."""
EXACT = 1e-8  # of the largest logit, in float64; errors seen are near 1e-15


def close(found: torch.Tensor, wanted: torch.Tensor, error: float = EXACT) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= error * wanted.abs().max()


@pytest.mark.parametrize("case", cases(), ids=str)
def test_logits_are_those_of_transformers(
    case: Case, first: First, build: Build, tmp_path: Path
) -> None:
    if case == cases(case.family)[0]:
        made = [first(case, pipeline) for pipeline in ("O0", "O2")]
    else:
        reference = save(case, tmp_path / "checkpoint")
        made = [(build(tmp_path / "checkpoint"), tmp_path / "checkpoint", reference)]
    tokens = torch.randint(case.fields["vocab_size"], (2, 13), generator=seeded())
    for package, folder, reference in made:
        wanted = logits(reference, tokens)
        model = package.load(folder, dtype=torch.float64)
        with torch.no_grad():
            close(model(tokens), wanted)
        cache = model.new_cache(2, 13)
        close(model.prefill(tokens[:, :6], cache), wanted[:, 5])
        close(model.prefill(tokens[:, 6:9], cache), wanted[:, 8])  # a second chunk
        for t in range(9, 13):
            close(model.decode(tokens[:, t], cache), wanted[:, t])
    cache = model.new_cache(2, 13)
    padded = tokens[:, :9].clone()
    padded[1, 4:] = 10**9  # padding may hold anything
    ragged = model.prefill(padded, cache, torch.tensor([9, 4]))
    close(ragged, torch.stack((wanted[0, 8], wanted[1, 3])))
    ragged = model.decode(torch.stack((tokens[0, 9], tokens[1, 4])), cache)
    close(ragged, torch.stack((wanted[0, 9], wanted[1, 4])))


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v2"])
def test_rows_in_another_order_are_loaded_and_saved(
    family: str, build: Build, tmp_path: Path
) -> None:
    """Query, key and value in one weight, and pairs of neighbours as halves where there are any."""
    case = cases(family)[0]
    reference = save(case, tmp_path / "checkpoint", dtype=torch.float32)
    tokens = torch.randint(case.fields["vocab_size"], (2, 11), generator=seeded())
    wanted = logits(reference, tokens)
    pipeline = "eliminate-dead,permute-rope,fuse-qkv,compress-kv,absorb-attention"
    package = build(tmp_path / "checkpoint", pipeline)
    assert "interleaved=True" not in Path(package.__file__).with_name("model.py").read_text()
    model = package.load(tmp_path / "checkpoint", dtype=torch.float64)
    with torch.no_grad():
        close(model(tokens), wanted)
    cache = model.new_cache(2, 11)
    close(model.prefill(tokens[:, :6], cache), wanted[:, 5])
    for t in range(6, 11):
        close(model.decode(tokens[:, t], cache), wanted[:, t])

    package.save(package.load(tmp_path / "checkpoint"), tmp_path / "again")
    same_tensors(tmp_path / "checkpoint", tmp_path / "again")


def same_tensors(one: Path, other: Path) -> None:
    """Two checkpoints hold the same tensors, to the bit."""
    first, again = tensors(one), tensors(other)
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert tensor.dtype == again[name].dtype, name
        assert torch.equal(tensor, again[name]), name


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_and_bfloat16_checkpoints_in_shards(
    family: str, build: Build, tmp_path: Path
) -> None:
    """Most are published in bfloat16; float32 is tried with a few families."""
    case = cases(family)[0]
    wide = [torch.float32] if family in ("deepseek_v3", "gpt_oss", "llama") else []
    for dtype in (*wide, torch.bfloat16):
        folder = tmp_path / str(dtype).removeprefix("torch.")
        reference = save(case, folder, dtype=dtype, shards=3)
        assert len(list(folder.glob("*.safetensors"))) >= 2
        tokens = torch.randint(case.fields["vocab_size"], (1, 11), generator=seeded())
        wanted = logits(reference, tokens)
        package = build(folder, name=f"emitted_{folder.name}")
        with torch.no_grad():
            close(package.load(folder, dtype=torch.float64)(tokens), wanted)
            close(package.load(folder, dtype=torch.float32)(tokens).double(), wanted, 1e-4)
        own = package.load(folder)
        assert own.dtype == dtype
        again = tmp_path / f"again-{folder.name}"
        package.save(own, again)
        same_tensors(folder, again)
        first, other = (AutoConfig.from_pretrained(place).to_dict() for place in (folder, again))
        assert {name for name in first if first[name] != other.get(name)} <= UNSAID
    there_and_back(package, folder, own)


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "glm4_moe"])
def test_routers_are_held_wide_and_saved_as_they_were(
    family: str, build: Build, tmp_path: Path
) -> None:
    """Published checkpoints have them in bfloat16, those of transformers in float32."""
    case = cases(family)[0]
    save(case, tmp_path / "wide", dtype=torch.bfloat16)
    held = load_file(tmp_path / "wide" / "model.safetensors")
    routers = [name for name in held if name.endswith("mlp.gate.weight")]
    assert routers
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    (narrow / "config.json").write_bytes((tmp_path / "wide" / "config.json").read_bytes())
    as_published = {name: held[name].bfloat16() for name in routers}
    save_file(held | as_published, narrow / "model.safetensors", metadata={"format": "pt"})
    package = build(narrow)
    for folder in (tmp_path / "wide", narrow):
        model = package.load(folder)
        package.save(model, tmp_path / f"again-{folder.name}")
        same_tensors(folder, tmp_path / f"again-{folder.name}")
        dtypes = {weight.dtype for weight in model.parameters()}
        assert dtypes == {torch.bfloat16, torch.float32}
    there_and_back(package, narrow, model)
    with torch.no_grad():
        for layer in model.layers[-1:]:
            layer.router += 1e-4
    package.save(model, tmp_path / "trained")
    trained = tensors(tmp_path / "trained")
    assert trained[routers[-1]].dtype == torch.float32
    assert trained[routers[0]].dtype == (torch.bfloat16 if len(routers) > 1 else torch.float32)


def there_and_back(package: Any, folder: Path, loaded: Any) -> None:
    """A checkpoint as the package holds it is what `load` makes of it, and becomes itself again."""
    laid_out, again = folder.with_name("laid-out"), folder.with_name("back")
    for job in (
        ToLayout(package, folder, laid_out, None, 2**15),
        ToCheckpoint(package, laid_out, again, None, 2**15),
    ):
        job.begin()
        job.run(lambda count: None)
    model = package.load(laid_out)
    package.save(model, folder.with_name("saved"))
    same_tensors(folder, folder.with_name("saved"))
    mapped = model.state_dict()
    for name, parameter in loaded.state_dict().items():
        assert mapped[name].dtype == parameter.dtype, name
        assert torch.equal(mapped[name], parameter), name
    same_tensors(folder, again)
    assert (again / "config.json").read_bytes() == (folder / "config.json").read_bytes()


@pytest.mark.parametrize("family", ["deepseek_v3", "gemma2", "gpt_oss", "llama", "qwen3_moe"])
def test_64_greedy_tokens_are_those_of_generate(family: str, build: Build, tmp_path: Path) -> None:
    case = cases(family)[1]
    reference = save(case, tmp_path / "checkpoint")
    tokens = torch.randint(case.fields["vocab_size"], (2, 5), generator=seeded())
    with Float64(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wanted = reference.generate(
            tokens, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )[:, 5:]
    package = build(tmp_path / "checkpoint")
    model = package.load(tmp_path / "checkpoint", dtype=torch.float64)
    assert torch.equal(package.generate(model, tokens, max_new_tokens=64), wanted)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)
