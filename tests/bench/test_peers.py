"""Peers beside our kernels: who is compared, who is not and why, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from archsmith.compiler.emit.measure import Job, Machine, Measure, Times
from archsmith.compiler.errors import ProofError
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.plugins import Registry
from bench import __main__ as command
from bench import facts
from bench.attention import attention
from bench.cases import Case, experts, in_float8, of_experts, small
from bench.compare import OURS, PYTORCH, Comparison, Peer, Row, compare, installed_peers
from bench.report import as_json, show
from measuring import CARD, by, inside

DAY = date(2026, 1, 2)
CALLS = (Sizes(3, 1, 3), Sizes(1, 7, 7))
QUICK = {"rounds": 1, "least": 0.0, "sets": 1}
ABSENT = """
'''Nobody's.'''
NAME, MODULES, INSTALL, GRADIENTS = "absent", ("not_a_package",), "pip install it", ()
def fused_experts(activation, **_): ...
"""
RAISING = """
NAME, MODULES, INSTALL, GRADIENTS = "raising", ("torch",), "", ()
def fused_experts(activation, **_):
    def run(*operands):
        raise ValueError("another\\nversion")
    return lambda *operands: operands, run
"""
WRONG = """
from .grouped_mm import experts, arranged
NAME, MODULES, INSTALL, GRADIENTS = "wrong", ("torch",), "", ()
def fused_experts(activation, **_):
    return arranged, lambda x, index, weight, gate_up, down: experts(
        x, index, weight, gate_up.flip(1), down
    )
"""


def tiny(backward: bool = False) -> Case:
    return of_experts("tiny", 5, 2, 32, 16, CALLS, backward, "float32")


def written(folder: Path, stem: str, text: str) -> Peer:
    """A peer of an adapter in `folder`, beside those that come with the tests."""
    path = folder / f"{stem}.py"
    path.write_text(text)
    module = ModuleType(stem)
    module.__file__ = str(path)
    exec(text.replace("from .", "from bench.peers."), vars(module))
    return Peer(module.NAME, module)


@pytest.fixture(scope="module")
def interpreted(registry: Registry) -> Measure:
    return partial(inside, registry.templates)


@pytest.fixture(scope="module")
def compared(
    registry: Registry, interpreted: Measure, tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """Our kernels in Triton's interpreter, beside PyTorch's grouped product and three others."""
    peers = [
        written(tmp_path_factory.mktemp("peers"), stem, text)
        for stem, text in (("absent", ABSENT), ("raising", RAISING), ("wrong", WRONG))
    ]
    peers += installed_peers(["grouped_mm"])
    return compare([tiny()], peers, registry, registry.targets["h200"], interpreted, **QUICK)


def test_a_peer_is_compared_with_our_kernel(compared: Comparison) -> None:
    assert [row.sizes for row in compared.rows] == list(CALLS)
    for row in compared.rows:
        assert set(row.seconds) == {OURS, PYTORCH, "torch grouped_mm"}
        assert min(row.seconds.values()) > 1e-6
        assert row.differ["torch grouped_mm"] < 1e-5
        assert row.floor is None  # no time of this computer is held against an H200's


def test_one_that_computes_something_else_is_no_peer(compared: Comparison) -> None:
    for row in compared.rows:
        assert "wrong" not in row.seconds
        assert row.failed["wrong"].startswith("computes something else: it differs by ")
        assert row.differ["wrong"] > 0.1


def test_one_that_is_absent_or_raises_is_said_so(compared: Comparison) -> None:
    for row in compared.rows:
        assert row.failed["absent"] == "not installed: pip install it"
        assert row.failed["raising"] == "ValueError: another"


def test_the_tables_and_the_json(compared: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    show(compared, "python -m tests.bench it", DAY)
    out = capsys.readouterr().out
    assert "| torch grouped_mm, us (ratio) |" in out
    assert "- absent: not installed: pip install it\n" in out
    assert "2026-01-02; Triton's interpreter; torch " in out
    rows = [line for line in out.splitlines() if line.strip().startswith("|")]
    assert len(rows) == 2 + len(CALLS)
    assert len({line.count("|") for line in rows}) == 1
    data = json.loads(json.dumps(as_json(compared, "it", DAY)))
    assert set(data) == {"date", "command", "machine", "target", "ceilings", "peers", "rows"}
    assert data["ceilings"]["measured"] is False
    assert set(data["machine"]) >= {"card", "driver", "torch", "triton"}
    assert [row["tokens"] for row in data["rows"]] == [1, 7]
    assert data["rows"][0]["operands"][3] == "float32[5, 2, 16, 32]"


def test_gradients_are_compared_too(registry: Registry, interpreted: Measure) -> None:
    peers = installed_peers(["grouped_mm"])
    case = replace(tiny(backward=True), calls=CALLS[1:])
    (row,) = compare([case], peers, registry, registry.targets["cpu"], interpreted, **QUICK).rows
    assert set(row.seconds) == {PYTORCH, "torch grouped_mm"}
    assert row.differ["torch grouped_mm"] < 1e-5
    assert case.work(CALLS[1]).flops == 3 * tiny().work(CALLS[1]).flops


def test_a_gradient_that_differs_is_found(
    registry: Registry, interpreted: Measure, tmp_path: Path
) -> None:
    """Of a peer whose result is right."""
    text = WRONG.replace('"", ()', '"", ("fused_experts",)')
    text = text.replace(
        "weight, gate_up.flip(1), down", "weight, gate_up, down.detach() + down * 0"
    )
    peers = [written(tmp_path, "wrong", text), *installed_peers(["grouped_mm"])]
    case = replace(tiny(backward=True), calls=CALLS[1:])
    (row,) = compare([case], peers, registry, registry.targets["cpu"], interpreted, **QUICK).rows
    assert row.differ["wrong"] == pytest.approx(1.0)
    assert "wrong" in row.failed


def clock(call: dict[str, Any], name: str) -> float:
    """Microseconds: of a copy of 2 GiB as at 4 TB/s, of a product as at 800 TFLOP/s; else one."""
    whole = {"copy": 4 * 2**30 / 4e6, "product": 2 * 8192**3 / 8e8}
    return whole.get(call["key"], 100.0)


def test_floors_are_by_rates_of_the_same_run(registry: Registry) -> None:
    case = experts("qwen3-30b", (1, 32768))
    asked: list[Job] = []
    peers = installed_peers(["grouped_mm"])
    found = compare([case], peers, registry, registry.targets["h200"], by(clock, asked=asked))
    assert found.measured
    one, many = found.rows
    assert one.floor is not None and many.floor is not None  # noqa: PT018
    assert one.floor.seconds == pytest.approx(8 * 3 * 2048 * 768 * 2 / 4e12, rel=0.01)
    assert many.floor.seconds == pytest.approx(32768 * 8 * 6 * 2048 * 768 / 8e14)
    assert [job.rounds for job in asked] == [15] * 3
    ways = [variant["way"] for variant in asked[2].calls[0]["variants"]]
    assert ways == ["kernel", "reference", "peer"]


def test_backward_alone_is_the_difference(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(call: dict[str, Any], name: str) -> float:
        return clock(call, name) * (3 if call["gradients"] else 1)

    cases = [case for case in small() if case.name == "RMS norm, 4,096"]
    show(compare(cases, [], registry, registry.targets["h200"], by(slower)), "it", DAY)
    # 200 us for x, its result's gradient and its own.
    rate = 3 * 2 * 16384 * 4096 / 200e-6 / 1e9
    said = f"backward alone, by difference: 200.0 us, {rate:,.0f} GB/s (1 x 16,384)"
    assert said in capsys.readouterr().out


def test_a_process_that_dies_takes_no_other_case_along(registry: Registry) -> None:
    def measure(job: Job) -> Iterator[Machine | Times]:
        if not job.calls or job.calls[0]["op"] != "gated_activation":
            yield from by(clock)(job)
            return
        yield CARD
        raise ProofError("measuring failed: ...\n  CUDA error: an illegal memory access")

    cases = [case for case in small() if case.name.startswith(("gated", "RoPE"))]
    rows = compare(cases, [], registry, registry.targets["h200"], measure).rows
    died = [row for row in rows if not row.seconds]
    assert [row.case.op.name for row in died] == ["gated_activation"] * 2
    assert died[0].failed[OURS] == "CUDA error: an illegal memory access"
    assert len(rows) == 4


def test_every_adapter_says_what_it_is() -> None:
    peers = installed_peers()
    assert len(peers) >= 9
    every = [experts("v3"), experts("v3", float8=True), *small(), *attention()]
    ops = {case.op.name for case in every}
    for peer in peers:
        assert any(map(peer.computes, every)), peer.name
        assert peer.adapter.INSTALL
        assert set(peer.adapter.GRADIENTS) <= ops & vars(peer.adapter).keys()
        assert bool(peer.absent()) == (peer.module is None)


def test_experts_in_float8(registry: Registry, interpreted: Measure, tmp_path: Path) -> None:
    """By a peer that makes them wide again, and does not round what it multiplies."""
    text = """
import torch
from .float8 import in_blocks
from .grouped_mm import experts
NAME, MODULES, INSTALL, GRADIENTS = "wide", ("torch",), "", ()
def quantized_experts(activation, **rules):
    def wide(w, scale):
        return w.float() * scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
    def run(x, index, weight, gate_up, down, of_gate_up, of_down):
        return experts(x, index, weight, wide(gate_up, of_gate_up), wide(down, of_down))
    return in_blocks(**rules), run
"""
    peers = [written(tmp_path, "wide", text), *installed_peers(["deep_gemm_fp8"])]
    target = registry.targets["cpu"]
    sizes = Sizes(1, 9, 9)
    case = in_float8(of_experts("narrow", 3, 2, 256, 128, (sizes,), dtype="float32"))
    (row,) = compare([case], peers, registry, target, interpreted, **QUICK).rows
    assert set(row.seconds) == {PYTORCH, "wide"}
    assert 1e-4 < row.differ["wide"] < 2.0**-4
    assert case.multiplied == "float8"
    whole = of_experts("wide", 3, 2, 256, 128, (sizes,), dtype="float32").work(sizes)
    assert case.work(sizes).bytes < whole.bytes / 3


def test_the_command(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    asked = ["small", "--case", "RMS norm, 4,096", "--way", "forward", "--json", str(path)]
    command.main([*asked, "--peer", "native"], by(clock))
    out = capsys.readouterr().out
    assert "4,000 GB/s and 800 TFLOP/s" in out
    assert "    python -m tests.bench small --case 'RMS norm, 4,096' --way forward --json" in out
    rows = json.loads(path.read_text())["rows"]
    assert [row["case"] for row in rows] == ["RMS norm, 4,096", "add and RMS norm, 4,096"]
    assert rows[0]["bytes"] == 2 * 2 * 16384 * 4096 + 2 * 4096
    with pytest.raises(SystemExit):
        command.main(["experts", "--model", "none"])


def test_a_card_with_less_memory_holds_fewer_experts() -> None:
    assert experts("v3", memory=141e9).operands[3].row[0].size == 256
    fewer = experts("v3", memory=24e9)
    assert fewer.operands[3].row[0].size == 136
    assert fewer.name == "experts, v3, 136 of 256"


def test_the_page_has_the_facts_as_they_are(registry: Registry) -> None:
    """Else: python -m tests.bench facts --write."""
    page = facts.PAGE.read_text()
    assert f"{facts.BEGIN}\n{facts.tables(registry)}\n{facts.END}" in page


def test_programs_of_a_processor(registry: Registry) -> None:
    target = registry.targets["h200"]
    assert facts.programs(255, 8, 196608, target) == 1  # by registers and by shared memory
    assert facts.programs(100, 4, 110592, target) == 2  # by shared memory
    assert facts.programs(128, 4, 0, target) == 4  # by registers
    assert facts.programs(16, 16, 0, target) == 4  # by threads
    assert facts.programs(16, 1, 0, target) == 32


def test_rows_tell_what_was_not_captured() -> None:
    row = Row(tiny(), CALLS[0], None, {OURS: 1e-6, "p": 3e-6}, {}, {}, ("p",))
    assert row.json()["uncaptured"] == ["p"]
