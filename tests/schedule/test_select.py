"""The choice of kernels: it depends on the target, the phase and the shape, and says why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ArchsmithError, PluginError
from archsmith.compiler.ir.cost import Cost, Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.elementwise import Softcap
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from archsmith.compiler.schedule.code import Code
from archsmith.compiler.schedule.kernel import Config, Kernel
from archsmith.compiler.schedule.plan import CALLS, Plan
from archsmith.compiler.schedule.select import select

EXAMPLES = Path(__file__).parents[2] / "examples"
Operands = tuple[TensorType, ...]


def planned(
    page: str, target: str, calls: Mapping[str, Sizes] = CALLS, pipeline: str = "O1"
) -> Plan:
    compiler = Compiler.installed(target, numeric=False)
    _, passes = compiler.passes(pipeline)
    path = Path(page)
    model = compiler.build(compiler.load(path))
    model, _ = compiler.rewrite(model, passes, lambda *_: {"perplexity": 0.0})
    return select(model, compiler.registry.kernels, compiler.target, calls)


def chosen(plan: Plan, op: str, phase: str) -> dict[str, str]:
    """Of each block, the kernel of its last op of a name."""
    return {c.block: c.kernel.name for c in plan.choices if (c.op.name, c.phase) == (op, phase)}


def why(plan: Plan, op: str, phase: str, kernel: str) -> str:
    choice = next(c for c in plan.choices if (c.op.name, c.phase) == (op, phase))
    return dict(choice.refusals)[kernel]


def test_the_target_decides() -> None:
    page = str(EXAMPLES / "deepseek-v2-lite.yaml")
    cpu, gpu = planned(page, "cpu"), planned(page, "h200")
    assert chosen(cpu, "attend", "decode")["sparse"] == "torch.attend"
    assert chosen(gpu, "attend", "decode")["sparse"] == "triton.decode_attention"
    assert why(cpu, "attend", "decode", "triton.decode_attention") == "the target has no Triton"
    assert why(gpu, "attend", "decode", "torch.attend").startswith("takes ")


def test_the_phase_decides() -> None:
    plan = planned(str(EXAMPLES / "llama-3-8b.yaml"), "h200")
    assert chosen(plan, "attend", "train") == {"layer": "gluon.prefill_attention"}
    assert chosen(plan, "attend", "prefill") == {"layer": "gluon.prefill_attention"}
    assert chosen(plan, "attend", "decode") == {"layer": "triton.decode_attention"}
    said = why(plan, "attend", "decode", "triton.prefill_attention")
    assert said == "it serves train and prefill only"


def changed(tmp_path: Path, example: str, *changes: tuple[str, str]) -> str:
    text = (EXAMPLES / f"{example}.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "changed.yaml").write_text(text)
    return str(tmp_path / "changed.yaml")


def test_the_shape_decides(tmp_path: Path) -> None:
    plan = planned(str(EXAMPLES / "mixtral-8x7b.yaml"), "h200")
    assert chosen(plan, "attend", "decode") == {"layer": "triton.decode_attention"}
    wide = changed(tmp_path, "mixtral-8x7b", ("head_dim: 128", "head_dim: 640"))
    plan = planned(wide, "h200")
    assert chosen(plan, "attend", "decode") == {"layer": "torch.attend"}
    assert "leaves no room" in why(plan, "attend", "decode", "triton.decode_attention")


def test_the_dtype_decides(tmp_path: Path) -> None:
    page = changed(tmp_path, "tiny-llama", ("dtype: float32", "dtype: float64"))
    plan = planned(page, "h200")
    assert not [kernel.name for kernel in plan.used() if kernel.triton]
    assert why(plan, "rope", "decode", "triton.rope") == "float64 is computed by PyTorch"


def test_experts_that_are_not_packed_are_pytorchs() -> None:
    page = str(EXAMPLES / "tiny-mixtral.yaml")
    passes = "eliminate-dead,fuse-expert-gate-up"
    plan = planned(page, "h200", pipeline=passes)
    assert chosen(plan, "fused_experts", "prefill") == {"layer": "torch.fused_experts"}
    assert "not packed" in why(plan, "fused_experts", "prefill", "triton.grouped_gemm")


def test_the_plan_of_a_package_keeps_every_reason(tmp_path: Path) -> None:
    compiler = Compiler.installed("h200", numeric=False)
    name, passes = compiler.passes("O1")
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v2.yaml")
    compiler.package(spec, tmp_path / "package", name, passes, prove=False)
    kernels = json.loads((tmp_path / "package" / "plan.json").read_text())["kernels"]
    (decode,) = (
        entry
        for entry in kernels["sparse"]
        if entry["op"] == "attend" and "decode" in entry["phases"]
    )
    assert decode["kernel"] == "triton.decode_attention"
    assert decode["refused"].keys() == {
        "gluon.latent_attention",
        "gluon.prefill_attention",
        "torch.attend",
        "triton.prefill_attention",
    }
    assert decode["tiles"][0]["num_warps"] > 0


class Few(Kernel):
    """Quick for few rows, and slow for many."""

    name = "test.few"
    implements = "softcap"

    def cost(self, op: Any, operands: Operands, sizes: Sizes, target: Target) -> Cost:
        return Cost(bytes=1.0 if sizes.rows <= 64 else 1e12)

    def call(self, op: Softcap, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x * op.cap


class Refusing(Few):
    name = "test.refusing"

    def refuses(self, op: Any, operands: Operands, target: Target) -> str | None:
        return "it is too late"


class Standing(Few):
    name = "test.standing"
    reference = "test.few"


@pytest.mark.parametrize(
    ("pipeline", "names"),
    [
        ("O2", ("gluon.latent_attention", "triton.decode_attention", "torch.attend")),
        (
            "O2,quantize-kv after compress-kv,fuse-dequantize after absorb-attention",
            (
                *("gluon.quantized_latent_attention", "triton.quantized_attention"),
                "torch.quantized_attend",
            ),
        ),
    ],
    ids=["16", "8"],
)
def test_what_stands_in_for_a_kernel_is_in_the_package_too(
    pipeline: str, names: tuple[str, ...]
) -> None:
    """Gluon's kernel, Triton's, and PyTorch's: each is emitted for what the first computes."""
    plan = planned(str(EXAMPLES / "deepseek-v2.yaml"), "h200", pipeline=pipeline)
    (kernel,) = (k for k in plan.used() if k.name == names[0])
    chain = list(plan.chain(kernel))
    assert tuple(k.name for k in chain) == names
    assert {k.name for k in chain} <= {k.name for k in plan.emitted()}
    assert {k.name for k in chain[:2]} <= {k.name for k in plan.launched()}
    assert names[-1] not in {k.name for k in plan.launched()}
    assert plan.uses(chain[1])
    ops = [[(use.op, use.operands) for use in plan.uses(k)] for k in chain[:2]]
    assert ops[0] == ops[1]


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ([("test.few", "test.standing")], "stand in for themselves: test.*, test.*, test."),
        ([("test.few", "test.nobody")], "kernel test.few .*: KeyError: 'test.nobody'"),
    ],
)
def test_what_stands_in_is_there_and_ends(
    kernels: list[tuple[str, str]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Compiler.installed("h200", numeric=False)
    model = compiler.build(compiler.load(EXAMPLES / "gemma-2-9b.yaml"))
    monkeypatch.setattr(Few, "reference", kernels[0][1])
    given = {**compiler.registry.kernels, "test.few": Few, "test.standing": Standing}
    given = {k: v for k, v in given.items() if v.implements != "softcap" or v in (Few, Standing)}
    with pytest.raises(PluginError, match=said):
        select(model, given, compiler.target, CALLS)


class Laddered(Few):
    name = "test.laddered"
    ladder = (16, 64, 256)

    def configs(self, op: Any, operands: Operands, rows: int, target: Target) -> Iterator[Config]:
        yield Config({"BLOCK": 16 if rows <= 64 else 128})


def test_the_call_decides_and_every_reason_is_kept(tmp_path: Path, registry: Registry) -> None:
    page = changed(tmp_path, "tiny-llama", ("{tied: true}", "{tied: true, softcap: 3.0}"))
    compiler = Compiler.installed("h200", numeric=False)
    model = compiler.build(compiler.load(Path(page)))
    kernels = {**registry.kernels, "test.few": Few, "test.refusing": Refusing}
    plan = select(model, kernels, compiler.target)
    assert chosen(plan, "softcap", "prefill") == {"head": "torch.softcap"}
    assert chosen(plan, "softcap", "decode") == {"head": "test.few"}
    assert why(plan, "softcap", "decode", "test.refusing") == "it is too late"
    said = why(plan, "softcap", "prefill", "test.few")
    assert said.startswith("takes 208,333.3 us, torch.softcap ")
    many = select(model, kernels, compiler.target, {**CALLS, "decode": Sizes(65, 1, 99)})
    assert chosen(many, "softcap", "decode") == {"head": "torch.softcap"}


def test_all_refuse(registry: Registry) -> None:
    compiler = Compiler.installed("h200", numeric=False)
    model = compiler.build(compiler.load(EXAMPLES / "tiny-llama.yaml"))
    kernels = {n: k for n, k in registry.kernels.items() if k.implements != "rope"}
    with pytest.raises(
        ArchsmithError, match=r"computes rope of block layer, %\w+ \(none implements"
    ):
        select(model, kernels, compiler.target)


def test_tiles_that_are_alike_are_one(registry: Registry) -> None:
    found = use(Laddered(), Softcap(2.0), (), registry.targets["h200"])
    assert [limit for limit, _ in found.tiles] == [64, None]
    assert [config.constants["BLOCK"] for _, config in found.tiles] == [16, 128]
