"""The proof of packages can fail: whatever breaks in the emission is found, and named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit import tensors
from archsmith.compiler.errors import ProofError
from archsmith.compiler.plugins import Registry
from click.testing import CliRunner
from emit import breaking
from emit.breaking import Call, called, edited

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
TINY = [spec for spec in SPECS if spec.startswith("tiny-")]


def build(compiler: Compiler, folder: Path, example: str, pipeline: str | None = None) -> None:
    name, passes = compiler.passes(pipeline)
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    report = compiler.package(spec, folder / "package", name, passes)
    assert report.proof is not None
    assert report.proof.trials > 20


def is_found(
    compiler: Compiler, folder: Path, example: str, pipeline: str | None, found: str
) -> None:
    """`found` is a block and a value, or a regular expression."""
    block, _, value = found.partition("/")
    if value:
        found = rf"differs from the graph: block {block}, value %{value}(_\d+)? by"
    with pytest.raises(ProofError, match=found) as failed:
        build(compiler, folder, example, pipeline)
    assert failed.value.exit_code == 3
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "pipeline"), [*((spec, "O2") for spec in SPECS), *((spec, "O0") for spec in TINY)]
)
def test_what_is_right_is_proved(
    compiler: Compiler, tmp_path: Path, example: str, pipeline: str
) -> None:
    build(compiler, tmp_path, example, pipeline)


@pytest.mark.parametrize(
    ("kernel", "change", "example", "pipeline", "found"),
    [
        ("torch.attend", breaking.wrong_scale, "tiny-deepseek-v3", "O1", "dense/out"),
        ("torch.attend", breaking.key_for_query, "tiny-deepseek-v2", "O1", "dense/out"),
        ("torch.rope", breaking.other_pairs, "tiny-deepseek-v3", "O1", "dense/q"),
        ("torch.rope", breaking.no_rotation_of_queries, "tiny-llama", "O1", "layer/q"),
        ("torch.rms_norm", breaking.no_eps, "tiny-llama", "O0", "layer/h"),
        ("torch.add_rms_norm", breaking.no_eps, "tiny-llama", "O1", "layer/h"),
        ("torch.split", breaking.other_sizes, "tiny-deepseek-v3", "O1", "dense/q_latent"),
        ("torch.unbind", breaking.other_names, "tiny-llama", "O1", "layer/gate"),
        ("torch.router", breaking.no_bias, "tiny-deepseek-v3", "O1", "sparse/index"),
        ("torch.router", breaking.not_normalized, "tiny-qwen3-moe", "O1", "sparse/weight"),
        ("torch.fused_experts", breaking.no_weight, "tiny-deepseek-v3", "O1", "sparse/routed"),
        ("torch.experts", breaking.up_for_gate, "tiny-mixtral", "O0", "layer/routed"),
        ("torch.gated_activation", breaking.one_less, "tiny-llama", "O1", "layer/x"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_wrong_call_is_found(
    compiler: Compiler,
    tmp_path: Path,
    kernel: str,
    change: Call,
    example: str,
    pipeline: str,
    found: str,
) -> None:
    compiler.registry.kernels[kernel] = called(compiler.registry.kernels[kernel], change)
    is_found(compiler, tmp_path, example, pipeline, found)


COSINE_AND_SINE = "return angle.cos() * gain, angle.sin()", "return angle.sin(), angle.cos()"
SCALING = "(keep + (1 - keep) / factor)", "(keep + (1 - keep) * factor)"


@pytest.mark.parametrize(
    ("stem", "old", "new", "example", "found"),
    [
        ("rms_norm", "mean(-1", "sum(-1", "tiny-deepseek-v3", "dense/q_latent"),
        ("rotations", *COSINE_AND_SINE, "tiny-qwen3-moe", "sparse/q"),
        ("rotations", *SCALING, "tiny-llama", "layer/q"),
        ("attend", "slot <= positions", "slot < positions", "tiny-deepseek-v3", "dense/out"),
        ("attend", "is_causal=mask is None", "is_causal=False", "tiny-llama", "layer/out"),
        ("attend", "- window", "- window - 1", "tiny-mixtral", "layer/out"),
        ("route", "weight * scale", "weight", "tiny-deepseek-v3", "sparse/weight"),
        ("add_rms_norm", "x + residual", "x - residual", "tiny-llama", "layer/x"),
        ("experts", "token[mine]", "token[mine].flip(0)", "tiny-qwen3-moe", "sparse/routed"),
    ],
    ids=str,
)
def test_a_wrong_function_is_found(
    compiler: Compiler, tmp_path: Path, stem: str, old: str, new: str, example: str, found: str
) -> None:
    for key, kernel in compiler.registry.kernels.items():
        if kernel.functions and kernel.stem() == stem:
            compiler.registry.kernels[key] = edited(kernel, old, new)
    is_found(compiler, tmp_path, example, "O1", found)


EXTEND = "return self._logits({% if not one %}*{% endif %}self._append(tokens, cache))"
MODULE = {
    "a cache written one slot off": (
        "step.py",
        "[self.slots] = value",
        "[self.slots - 1] = value",
        "dense/k",
    ),
    "wrong positions when decoding": (
        "model.py",
        "self._layers(tokens, step.positions, step)",
        "self._layers(tokens, step.positions + (tokens.shape[1] == 1), step)",
        "dense/q",
    ),
    "wrong positions in a second call": (
        "cache.py",
        "positions = self.lengths[:, None] + token",
        "positions = (self.lengths[:, None] > 0) + token",
        "dense/q",
    ),
    "wrong positions in training": (
        "model.py",
        "torch.arange(tokens.shape[1], device=tokens.device).expand",
        "torch.arange(tokens.shape[1], device=tokens.device).flip(0).expand",
        "dense/q",
    ),
    "lengths of ragged rows ignored": (
        "model.py",
        "counts = row_lengths(lengths, len(tokens))",
        "counts = [tokens.shape[1]] * len(tokens)",
        "head/h",
    ),
    "lengths of ragged rows counted wrongly": (
        "cache.py",
        "self.lengths += self.lengths.new_tensor(step.counts",
        "self.lengths += 1 + self.lengths.new_tensor(step.counts",
        "dense/q",
    ),
    "logits of the token before the last": ("model.py", "[:, -1:]", "[:, :-1][:, -1:]", "head/h"),
    "no cache": (
        "model.py",
        "    def new_cache(self, batch: int, length: int) -> Cache:\n",
        "    def new_cache(self, batch: int) -> Cache:\n        length = 1\n",
        "fails: TypeError",
    ),
    "extend shifted": ("model.py", EXTEND, f"{EXTEND}.roll(1, 1)", "block head, what it returns"),
}


def test_logits_may_lie_in_any_order(compiler: Compiler, tmp_path: Path) -> None:
    """They are told as they are, not as they lie in memory."""
    old = "positions))\n\n{% if module.page"
    text = compiler.registry.templates["model.py"]
    assert old in text
    turned = old.replace("))", ")).mT.contiguous().mT", 1)
    compiler.registry.templates["model.py"] = text.replace(old, turned)
    build(compiler, tmp_path, "tiny-llama", "O1")


@pytest.mark.parametrize(("file", "old", "new", "found"), MODULE.values(), ids=MODULE)
def test_a_wrong_module_is_found(
    compiler: Compiler, tmp_path: Path, file: str, old: str, new: str, found: str
) -> None:
    text = compiler.registry.templates[file]
    assert old in text
    compiler.registry.templates[file] = text.replace(old, new)
    is_found(compiler, tmp_path, "tiny-deepseek-v2", "O1", found)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (
            "    slots, kv_heads = ",
            "    if q.shape[1] == 1:\n        raise RuntimeError('no')\n    slots, kv_heads = ",
            r"fails: RuntimeError: no\n  File \"probe.kernels.attend\.py\", line \d+, in attend\n"
            r"  in block dense, after value %v",
        ),
        (
            "import torch\n",
            "import torhc\n",
            r"fails: ModuleNotFoundError: .*\n  File \"probe.kernel",
        ),
    ],
    ids=["in a call", "as it is imported"],
)
def test_a_package_that_fails_says_where(
    compiler: Compiler, tmp_path: Path, old: str, new: str, found: str
) -> None:
    kernels = compiler.registry.kernels
    kernels["torch.attend"] = edited(kernels["torch.attend"], old, new)
    is_found(compiler, tmp_path, "tiny-deepseek-v2", "O1", found)


def _swapped(match: re.Match[str]) -> str:
    return {"gate": "up", "up": "gate"}[match[1]] + "_proj"


TABLES = {
    "two tensors swapped": (r"(gate|up)_proj", _swapped, "tiny-llama", "layer/gate"),
    "the wrong half": ("gate_up[1]", "gate_up[0]", "tiny-llama", "layer/gate"),
    "another layer": (r"layers\.\{i\}", "layers.{1 - i}", "tiny-llama", "layer/h"),
    "another expert": ("down[e]", "down[e - 1]", "tiny-deepseek-v2", "sparse/routed"),
}


@pytest.mark.parametrize(("old", "new", "example", "found"), TABLES.values(), ids=TABLES)
def test_a_wrong_table_of_weights_is_found(
    compiler: Compiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str | Callable[[re.Match[str]], str],
    example: str,
    found: str,
) -> None:
    changed = []

    def wrong(*arguments: Any) -> list[str]:
        lines = tensors.table(*arguments)
        pattern = old if "\\" in old or "|" in old else re.escape(old)
        result = [re.sub(pattern, new, line) for line in lines]
        changed.append(result != lines)
        return result

    monkeypatch.setattr("archsmith.compiler.emit.listing.table", wrong)
    is_found(compiler, tmp_path, example, "O1", found)
    assert any(changed)


@pytest.mark.parametrize(
    ("kernel", "change", "found", "alone"),
    [
        ("torch.attend", breaking.wrong_scale, "block layer, value %out by", True),
        ("torch.unbind", breaking.other_names, "block layer, value %gate", False),
    ],
    ids=["in a process of its own", "here"],
)
def test_the_command_exits_with_3(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kernel: str,
    change: Call,
    found: str,
    alone: bool,
) -> None:
    if not alone:
        request.getfixturevalue("in_process")
    registry = Registry.installed()
    kernels = {**registry.kernels, kernel: called(registry.kernels[kernel], change)}
    broken = replace(registry, kernels=kernels)
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, *_: broken))
    command = ["build", str(EXAMPLES / "tiny-llama.yaml"), "-o", str(tmp_path / "package")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert f"error: the emitted package differs from the graph: {found}" in result.stderr
    assert list(tmp_path.iterdir()) == []
