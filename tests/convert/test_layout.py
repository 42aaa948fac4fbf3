"""A package's own layout: it holds what `load` makes of a checkpoint, and is mapped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.convert.conversion import verify
from archsmith.compiler.convert.layout import ToLayout
from archsmith.compiler.convert.places import Holding, Parameter, Place
from archsmith.compiler.errors import ArchsmithError, DamagedError, GraphError
from convert.conftest import SHARD, convert, restore, run
from package.quantized import MXFP4, experts_in_mxfp4, projections_in_float8, store, without_mxfp4
from package.tiny import fresh, prompt, tiny_gpt_oss
from safetensors.torch import load_file, save_file
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
Built = Callable[..., ModuleType]


def tensors(folder: Path) -> dict[str, Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("pipeline", ["O0", "O1", "O2"])
@pytest.mark.parametrize("example", ["tiny-deepseek-v2", "tiny-llama"])
def test_there_and_back(built: Built, tmp_path: Path, example: str, pipeline: str) -> None:
    package: Any = built(example, pipeline)
    source = tmp_path / "source"
    package.save(fresh(package, torch.float32), source)
    convert(package, source, tmp_path / "out")
    same(package.load(tmp_path / "out").state_dict(), package.load(source).state_dict())
    assert restore(package, tmp_path / "out", tmp_path / "again")["changed"] == {}
    same(tensors(tmp_path / "again"), tensors(source))


@pytest.mark.parametrize(
    ("stored", "asked"), list(zip(DTYPES, DTYPES[1:] + DTYPES[:1], strict=True))
)
def test_any_float_becomes_any_other(
    package: Any, tmp_path: Path, stored: torch.dtype, asked: torch.dtype
) -> None:
    package.save(fresh(package, stored), tmp_path / "source")
    convert(package, tmp_path / "source", tmp_path / "out", dtype=asked)
    wanted = package.load(tmp_path / "source", dtype=asked).state_dict()
    same(package.load(tmp_path / "out", dtype=asked).state_dict(), wanted)
    said = restore(package, tmp_path / "out", tmp_path / "again")
    if torch.promote_types(stored, asked) == asked:
        assert said["changed"] == {}
        same(tensors(tmp_path / "again"), tensors(tmp_path / "source"))
    else:
        assert said["changed"]["lm_head.weight"].endswith("F16" if asked.itemsize == 2 else "F32")
        dtype = json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"]
        assert dtype == str(asked).removeprefix("torch.")


def test_it_is_mapped_and_written_to_without_harm(package: Any, whole: Path) -> None:
    before = {file: file.read_bytes() for file in whole.glob("*.safetensors")}
    assert all((8 + int.from_bytes(held[:8], "little")) % 64 == 0 for held in before.values())
    model = package.load(whole, dtype=torch.float32)
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(file) in mapped for file in before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert {file: file.read_bytes() for file in before} == before
    model(prompt(package)).sum().backward()
    package.generate(package.load(whole), prompt(package), max_new_tokens=3)


def test_float8_comes_out_as_load_has_it(built: Built, tmp_path: Path) -> None:
    package: Any = built("tiny-llama")
    package.save(fresh(package, torch.bfloat16), tmp_path / "plain")
    source = tmp_path / "source"
    shutil.copytree(tmp_path / "plain", source)
    store(projections_in_float8(load_file(source / "model.safetensors")), source)
    said = convert(package, source, tmp_path / "out")
    same(package.load(tmp_path / "out").state_dict(), package.load(source).state_dict())
    scales = [name for name in said["sources"] if name.endswith("_scale_inv")]
    assert scales
    changed = restore(package, tmp_path / "out", tmp_path / "again")["changed"]
    assert set(changed) == {name.removesuffix("_scale_inv") for name in scales}
    assert "quantization_config" not in (tmp_path / "again" / "config.json").read_text()
    same(package.load(tmp_path / "again").state_dict(), package.load(source).state_dict())


def test_mxfp4_comes_out_as_load_has_it(built: Built, tmp_path: Path) -> None:
    package: Any = built("gpt-oss-20b", change=tiny_gpt_oss)
    source = tmp_path / "source"
    package.save(fresh(package, torch.bfloat16), source)
    held = experts_in_mxfp4(load_file(source / "model.safetensors"))
    store(held, source, MXFP4)
    job = ToLayout(package, source, tmp_path / "out", None, SHARD)
    assert job.cost().read == sum(tensor.nbytes for tensor in held.values())
    # The largest is gate_up_proj: in MXFP4, in bfloat16, and as gate and up, which interlock.
    assert job.memory == 5 * 128 * 3 * 17 + 2 * (5 * 96 * 128 * 2)
    said = run(job)
    same(package.load(tmp_path / "out").state_dict(), package.load(source).state_dict())
    assert said["sources"].keys() == held.keys()
    assert verify(tmp_path / "out", source, Silent()) == len(package.load(source).state_dict())
    changed = restore(package, tmp_path / "out", tmp_path / "again")["changed"]
    packed = [name.removesuffix("_blocks") for name in held if name.endswith("_blocks")]
    assert changed == dict.fromkeys(packed, "mxfp4 to BF16")
    assert "quantization_config" not in (tmp_path / "again" / "config.json").read_text()
    same(tensors(tmp_path / "again"), without_mxfp4(held))
    scales = packed[0] + "_scales"
    held[scales][0, 0, 0] += 1
    store(held, source, MXFP4)
    with pytest.raises(DamagedError, match=rf"  {scales} is another in"):
        verify(tmp_path / "out", source, Silent())


class Silent:
    """Nobody who watches."""

    def begin(self, doing: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


def test_computed_weights_have_no_way_back(built: Built, tmp_path: Path) -> None:
    plain: Any = built("tiny-deepseek-v2", "O1")
    package: Any = built("tiny-deepseek-v2", "O1,fold-norm-gain")
    plain.save(fresh(plain, torch.float32), tmp_path / "source")
    said = convert(package, tmp_path / "source", tmp_path / "out")
    assert said["sources"].keys() == tensors(tmp_path / "source").keys()
    same(
        package.load(tmp_path / "out").state_dict(), package.load(tmp_path / "source").state_dict()
    )
    with pytest.raises(
        ArchsmithError, match=r"no checkpoint can be made: \S+ holds \S+ after scale"
    ):
        restore(package, tmp_path / "out", tmp_path / "again")


def test_another_package_does_not_load_it(built: Built, whole: Path, tmp_path: Path) -> None:
    other: Any = built("tiny-deepseek-v3", "O1")
    with pytest.raises(ValueError, match="laid out for another package"):
        other.load(whole)
    with pytest.raises(ArchsmithError, match="laid out for another package"):
        restore(other, whole, tmp_path / "again")
    with pytest.raises(ArchsmithError, match="is converted; --to-hf makes"):
        convert(other, whole, tmp_path / "again")


def test_a_header_that_only_others_refuse(package: Any, whole: Path, tmp_path: Path) -> None:
    """Half a character in what is not used: to Python a string, to safetensors none."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    file = sorted(folder.glob("*.safetensors"))[0]
    data = file.read_bytes()
    file.write_bytes(data.replace(b'{"format":"pt"}', b'{"a":"\\ud800b"}'))
    assert file.stat().st_size == len(data)
    with pytest.raises(ValueError, match=rf"{file.name} is not a safetensors file"):
        package.load(folder)


def test_a_folder_that_lacks_something(package: Any, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    file = sorted(folder.glob("*.safetensors"))[0]
    held = load_file(file)
    name = next(iter(held))
    save_file({**held, name: held[name].flatten()[:3].clone()}, file)
    with pytest.raises(ValueError, match=rf"misshapen .*\n    {name} in {file.name}: \[3\], not"):
        package.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {file.name}"):
        package.load(folder)


def test_copies_are_compared_and_restored(built: Built, tmp_path: Path) -> None:
    package: Any = built("tiny-llama")
    source = tmp_path / "source"
    package.save(fresh(package, torch.float32), source)
    held = load_file(source / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    save_file(held, source / "model.safetensors")
    said = convert(package, source, tmp_path / "out")
    assert said["unread"] == ["model.layers.0.self_attn.rotary_emb.inv_freq"]
    restore(package, tmp_path / "out", tmp_path / "again")
    del held["model.layers.0.self_attn.rotary_emb.inv_freq"]
    same(tensors(tmp_path / "again"), held)
    held["lm_head.weight"][3, 3] += 1
    save_file(held, source / "model.safetensors")
    with pytest.raises(ArchsmithError, match=r"lm_head.weight differs from model.embed_tokens"):
        convert(package, source, tmp_path / "other")


def test_numbers_past_a_dtype_are_an_error(package: Any, tmp_path: Path) -> None:
    model = fresh(package, torch.float32)
    with torch.no_grad():
        model.layers[0].o[0, 0] = 1e5
        model.layers[0].o[0, 1] = torch.inf  # which may be there, and hides no other
    package.save(model, tmp_path / "source")
    with pytest.raises(
        ArchsmithError, match=r"layers.0.self_attn.o_proj.weight has larger numbers"
    ):
        convert(package, tmp_path / "source", tmp_path / "out", dtype=torch.float16)
    convert(package, tmp_path / "source", tmp_path / "wide", dtype=torch.bfloat16)
    with pytest.raises(ArchsmithError, match=r"0.self_attn.o_proj.weight has larger numbers"):
        restore(package, tmp_path / "wide", tmp_path / "back", dtype=torch.float16)


def test_what_stands_beside_the_tensors_goes_along(
    package: Any, checkpoint: Path, whole: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer.json"):
        assert (whole / name).read_bytes() == (checkpoint / name).read_bytes()
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (tmp_path / "secret").write_text("secret")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ArchsmithError, match=r"tokenizer.json is no file of this folder"):
        convert(package, source, tmp_path / "out")


def test_spans_join_what_interlocks() -> None:
    rows, odd, even = Place(0, (2, 4), (4, 1)), Place(8, (3, 2), (4, 2)), Place(9, (3, 2), (4, 2))
    holdings = [
        Holding(name, place, None) for name, place in zip("cab", (even, rows, odd), strict=True)
    ]
    parameter = Parameter("p", (5, 4), torch.float32, holdings)
    spans = parameter.spans()
    assert [(span.first, span.end) for span in spans] == [(0, 8), (8, 20)]
    assert ["".join(h.tensor for h in span.holdings) for span in spans] == ["a", "bc"]
    with pytest.raises(GraphError, match="p is not filled"):
        Parameter("p", (6, 4), torch.float32, holdings).spans()
