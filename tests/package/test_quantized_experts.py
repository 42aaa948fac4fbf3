"""Packages with experts in 8 bits: what they lose, load, convert, and refuse to save."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.ir.quantized import BLOCK, rounded, scales_of, spread
from click.testing import CliRunner
from package.quantized import STORED, dequantized, quantized, store
from package.tiny import EXAMPLES, Build, fresh, prompt
from safetensors.torch import load_file
from torch import Tensor

SIDE = BLOCK.size
AT = "model.layers.1.mlp"


def larger(page: str) -> str:
    """Sizes of one block and a part of another; few experts."""
    page = re.sub(r"hidden_size: \d+", "hidden_size: 136", page)
    page, found = re.subn(r"width: \d+, shared: 1", "width: 144, shared: 1", page)
    assert found == 1
    return page


class Built(NamedTuple):
    package: Any
    plain: Any
    folder: Path
    tensors: dict[str, Tensor]
    loss: float | None


@pytest.fixture(scope="module")
def built(package: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """DeepSeek-V3 with experts in float8, judged and proved, and a checkpoint in bfloat16."""
    root = tmp_path_factory.mktemp("quantized")
    plain = package("tiny-deepseek-v3", larger, "larger_v3")
    folder = root / "checkpoint"
    plain.save(fresh(plain, torch.bfloat16), folder)
    compiler = Compiler.installed(numeric=False)
    (root / "page.yaml").write_text(larger((EXAMPLES / "tiny-deepseek-v3.yaml").read_text()))
    spec = compiler.load(root / "page.yaml")
    pipeline, passes = compiler.passes("O2,quantize-experts{activations=true}")
    report = compiler.package(spec, root / "in_float8", pipeline, passes, weights=folder)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    module = importlib.import_module("in_float8")
    tensors = load_file(folder / "model.safetensors")
    yield Built(module, plain, folder, tensors, report.outcomes[-1].loss)
    sys.path.remove(str(root))


def held(model: Any, name: str, expert: int) -> tuple[Tensor, Tensor]:
    """The numbers and scales of an expert's matrix."""
    layer = model.layers[1]
    stem, part = {"gate": ("gate_up", 0), "up": ("gate_up", 1), "down": ("down", ...)}[name]
    both = (getattr(layer, f"experts_{stem}{end}")[expert] for end in ("", "_scale"))
    return tuple(x[part] for x in both)  # type: ignore[return-value]


def test_its_loss_is_small_and_measured(built: Built) -> None:
    assert built.loss is not None
    assert 1e-6 < built.loss < 0.02


def test_weights_are_quantized_as_they_are_read(built: Built) -> None:
    for dtype in (None, torch.float64):
        model = built.package.load(built.folder, dtype=dtype)
        for name, expert in (("gate", 3), ("up", 0), ("down", 15)):
            weight = built.tensors[f"{AT}.experts.{expert}.{name}_proj.weight"].double().numpy()
            values, scales = held(model, name, expert)
            assert (values.dtype, scales.dtype) == (
                torch.float8_e4m3fn,
                torch.float32 if dtype is None else dtype,
            )
            wanted = scales_of(weight, "float8_e4m3fn", SIDE)
            torch.testing.assert_close(scales.double(), torch.from_numpy(wanted), rtol=1e-7, atol=0)
            exact = rounded(weight / spread(wanted, weight.shape, SIDE), "float8_e4m3fn")
            assert (values.double() == torch.from_numpy(exact)).float().mean() > 0.9999


def test_the_shared_expert_is_one_of_them(built: Built) -> None:
    model = built.package.load(built.folder)
    values, scales = held(model, "down", 16)
    made = values.float() * torch.from_numpy(spread(scales.numpy(), (136, 144), SIDE))
    weight = built.tensors[f"{AT}.shared_experts.down_proj.weight"].float()
    assert (made - weight).abs().max() <= weight.abs().max() / 28


def test_a_checkpoint_in_the_same_blocks_is_taken_as_it_is(built: Built, tmp_path: Path) -> None:
    """Its scales follow no rule of ours: what is dequantized and quantized again would differ."""
    built.plain.save(fresh(built.plain, torch.bfloat16), tmp_path)
    draw = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, x in built.tensors.items():
        if "proj" not in name:
            tensors[name] = x
            continue
        stored, scale = quantized(x.float(), [SIDE, SIDE])
        tensors[name] = stored
        tensors[f"{name}_scale_inv"] = scale * (1 + torch.rand(scale.shape, generator=draw) / 4)
    store(tensors, tmp_path, STORED | {"weight_block_size": [SIDE, SIDE]})
    model = built.package.load(tmp_path)
    for name, expert in (("gate", 0), ("up", 7), ("down", 15), ("gate", 16), ("down", 16)):
        where = f"experts.{expert}" if expert < 16 else "shared_experts"
        values, scales = held(model, name, expert)
        key = f"{AT}.{where}.{name}_proj.weight"
        assert torch.equal(values.view(torch.uint8), tensors[key].view(torch.uint8))
        assert torch.equal(scales, tensors[f"{key}_scale_inv"])
    key = "model.layers.0.mlp.down_proj.weight"  # what is no expert is dequantized
    wanted = dequantized(tensors[key], tensors[f"{key}_scale_inv"], [SIDE, SIDE])
    assert torch.equal(model.layers[0].down, wanted.to(model.dtype))
    converts(built, tmp_path, tmp_path / "converted", model)


def test_it_is_converted_and_not_back(built: Built, tmp_path: Path) -> None:
    converts(built, built.folder, tmp_path / "converted", built.package.load(built.folder))
    arguments = ["convert", tmp_path / "converted", tmp_path / "back", "--to-hf"]
    done = ran(*arguments, "--package", Path(built.package.__file__).parent)
    assert done.exit_code == 1
    assert "layers.1.experts_gate_up holds" in done.output
    assert "after quantize, which cannot be undone to the bit" in done.output


def converts(built: Built, source: Path, folder: Path, loaded: Any) -> None:
    package = Path(built.package.__file__).parent
    done = ran("convert", source, folder, "--package", package)
    assert done.exit_code == 0, done.output
    assert ran("verify", folder, "--source", source).exit_code == 0
    mapped = built.package.load(folder).state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == mapped[name].dtype
        assert torch.equal(tensor.double(), mapped[name].double()), name


def ran(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_saving_is_refused(built: Built, tmp_path: Path) -> None:
    model = built.package.load(built.folder)
    with pytest.raises(ValueError, match=r"experts_gate_up holds .* after quantize, which cannot"):
        built.package.save(model, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_it_has_gradients_but_for_its_experts(built: Built) -> None:
    """What is multiplied in float8 passes its gradient on as if it were not."""
    model = built.package.load(built.folder, dtype=torch.float64)
    model(prompt(built.package)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any("experts_gate" in name for name, _ in model.named_parameters())
    experts = sys.modules["in_float8.kernels.quantized_experts"]
    x = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    near = experts.in_float8(x, 8)
    near.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.equal(near, experts.in_float8(x.detach(), 8))


def test_its_own_tests_pass_and_it_reads_well(built: Built) -> None:
    folder = Path(built.package.__file__).parent
    module = f"{folder.name}.tests.test_package"
    commands = [
        ["-m", module],
        ["-m", "ruff", "format", "--check", "--isolated", "--line-length=100", folder],
        ["-m", "ruff", "check", "--select=F,I,UP,B", "--isolated", "--line-length=100", folder],
    ]
    for command in commands:
        command = [sys.executable, *command]
        done = subprocess.run(
            command, cwd=folder.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{format=int4}", "'int4' is no format; there are float8, int8"),
        ("{format=int8,activations=true}", "quantized with float8 only, not int8"),
    ],
)
def test_options_that_do_not_fit(options: str, message: str) -> None:
    with pytest.raises(ArchsmithError, match=f"^pass quantize-experts: .*{message}"):
        Compiler.installed(numeric=False).passes(f"O1,quantize-experts{options}")
