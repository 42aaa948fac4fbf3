"""Benchmarks: what is timed, what it is held against, and how that is shown."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.benchmark import Benchmark, benchmark
from archsmith.compiler.benchmark_views import draw, show
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.measure import Job, Machine, Times
from archsmith.compiler.errors import ArchsmithError, EnvironmentMissing
from archsmith.compiler.packaged import Packaged, packaged
from archsmith.compiler.schedule.forecast import Demand, forecast
from click.testing import CliRunner
from measuring import CARD, Silent, here

EXAMPLES = Path(__file__).parents[1] / "examples"


def built(folder: Path, example: str, target: str) -> Packaged:
    compiler = Compiler.installed(target, numeric=False)
    name, passes = compiler.passes("O2")
    compiler.package(compiler.load(EXAMPLES / f"{example}.yaml"), folder, name, passes, prove=False)
    return packaged(folder)


@pytest.fixture(scope="module")
def for_cpu(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    return built(tmp_path_factory.mktemp("bench") / "bench_llama", "tiny-llama", "cpu")


@pytest.fixture(scope="module")
def for_gpu(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    return built(tmp_path_factory.mktemp("bench") / "bench_v2", "tiny-deepseek-v2", "h200")


def microseconds(job: Job) -> Iterator[Machine | Times]:
    """A stand-in for the child: a kernel takes 2 us, its path in PyTorch 8, that compiled 4."""
    yield CARD
    for call in job.calls:
        ways = [variant["way"] for variant in call["variants"]]
        each = {"kernel": ("kernel", 2e-6), "reference": ("pytorch", 8e-6)}
        taken = dict(each.get(way, ("compiled", 4e-6)) for way in ways)
        yield Times(call["key"], taken, {}, {})


def test_every_op_that_moves_anything_is_timed(for_gpu: Packaged) -> None:
    found = benchmark(for_gpu, Demand(2, 64), ("prefill", "decode"), microseconds, Silent())
    known = forecast(for_gpu.plan, Demand(2, 64)).phases
    for phase, said in known.items():
        timings = [timing for timing in found.timings if timing.phase == phase]
        wanted = {
            (line.block, line.node): line
            for line in said.lines
            if line.work.bytes and not line.choice.op.keeps
        }
        assert {(ln.block, ln.node) for t in timings for ln in t.of.lines} == set(wanted)
        assert sum(t.times for t in timings) == sum(line.times for line in wanted.values())
    for timing in found.timings:
        ways = {"pytorch", "compiled"} | ({"kernel"} if timing.kernel.triton else set())
        assert set(timing.seconds) == ways
        assert timing.floor is not None
        parts = timing.of.work.bytes / 4.8e12, timing.of.work.flops / 989.4e12
        least = max(parts) if timing.of.dtype == "bfloat16" else timing.floor.seconds
        assert timing.floor.seconds == pytest.approx(least, rel=1e-12)
        taken = 2e-6 if timing.kernel.triton else 8e-6
        assert timing.reached == pytest.approx(timing.floor.seconds / taken)


def test_a_training_call_is_timed_with_its_gradients(
    for_gpu: Packaged, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each op's behind its results, the loss's too, against what they cannot avoid."""
    jobs: list[Job] = []

    def measure(job: Job) -> Iterator[Machine | Times]:
        jobs.append(job)
        return microseconds(job)

    found = benchmark(for_gpu, Demand(2, 64), ("train",), measure, Silent())
    (job,) = jobs
    rows = 2 * 64
    timings, by = found.timings, {(t.op, t.of.gradients): t for t in found.timings}
    backward = [i for i, timing in enumerate(timings) if timing.of.gradients]
    assert len(backward) > 8
    for i in backward:
        assert timings[i - 1].of.lines == timings[i].of.lines
        assert not timings[i - 1].of.gradients
    assert {t.op for t in timings} - {timings[i].op for i in backward} == {
        "zeros",
        "rotations",
        "concat",
    }
    loss, of_loss = timings[-2:]
    assert (loss.op, loss.of.computed_by) == ("linear_cross_entropy", "triton.linear_cross_entropy")
    assert of_loss.of.computed_by == "triton.linear_cross_entropy_gradients"
    words, width = (axis.size for axis in loss.of.lines[0].choice.operands[1].row)
    assert of_loss.of.work.flops == 2 * loss.of.work.flops == 4 * rows * words * width
    assert of_loss.floor is not None
    assert of_loss.floor.seconds == pytest.approx(of_loss.of.work.flops / 66.9e12)
    experts = by["fused_experts", ("x", "weight", "gate_up", "down")]
    assert experts.of.computed_by == "triton.grouped_gemm_gradients"
    assert by["router", ("x", "weight")].of.computed_by == "torch.router"
    assert by["rope", ("x",)].of.computed_by == "triton.rope_gradients"
    for timing, call in zip(timings, job.calls, strict=True):
        names = [operand["name"] for operand in call["operands"]]
        assert tuple(names[i] for i in call["gradients"]) == timing.of.gradients
        assert call["alone"] == bool(timing.of.gradients)
        assert timing.taken == (2e-6 if timing.kernel.triton else 8e-6)
    show(found)
    out = capsys.readouterr().out
    assert "train: 2 rows, 64 tokens" in out
    lines = [[cell.strip() for cell in line.split("│")][1:] for line in out.splitlines()]
    at = next(i for i, line in enumerate(lines) if line and line[0].startswith("%losses = "))
    below = lines[at + 1]
    assert below[:1] + below[2:5] == ["backward", "1", "2.00", "8.00"]
    assert of_loss.of.computed_by.startswith(below[1])  # which may go on in the next line
    told = found.json()["timings"][-1]
    assert (told["phase"], told["gradients"]) == ("train", ["x", "weight"])
    assert (told["kernel"], told["flops"]) == (of_loss.of.computed_by, of_loss.of.work.flops)


def test_the_kernels_are_timed_as_their_owner_left_them(for_gpu: Packaged) -> None:
    jobs: list[Job] = []

    def measure(job: Job) -> Iterator[Machine | Times]:
        jobs.append(job)
        return microseconds(job)

    edited = for_gpu.folder / "kernels" / "rope.py"
    text = edited.read_text()
    try:
        edited.write_text(f"{text}\n# edited\n")
        benchmark(packaged(for_gpu.folder), Demand(1, 8), ("decode",), measure, Silent())
    finally:
        edited.write_text(text)
    assert jobs[0].folders["package"]["kernels/rope.py"].endswith("# edited\n")


def test_floors_are_of_their_own_card_alone(
    for_gpu: Packaged, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(job: Job) -> Iterator[Machine | Times]:
        _, *times = microseconds(job)
        return iter([replace(CARD, arch="80"), *times])

    found = benchmark(for_gpu, Demand(1, 8), ("decode",), elsewhere, Silent())
    assert all(timing.reached is None for timing in found.timings)
    show(found)
    assert "the package is for h200 (90, 141 GB): no time is held" in capsys.readouterr().out


def test_what_failed_waits_or_differs_is_said_below(
    for_gpu: Packaged, capsys: pytest.CaptureFixture[str]
) -> None:
    def some(job: Job) -> Iterator[Machine | Times]:
        machine, *times = microseconds(job)
        yield machine
        for i, each in enumerate(times):
            assert isinstance(each, Times)
            differ = dict.fromkeys(each.seconds, 0.0) | {"kernel": i / 1000}
            no = {"compiled": "OutOfMemoryError: CUDA out of memory."}
            seconds = {way: s for way, s in each.seconds.items() if way != "compiled"}
            yield replace(each, seconds=seconds, failed=no, differ=differ, uncaptured=["pytorch"])

    found = benchmark(for_gpu, Demand(1, 8), ("decode",), some, Silent())
    assert found.timings[-1].json()["uncaptured"] == ["pytorch"]
    show(found)
    out = capsys.readouterr().out
    assert out.count("compiled fails: OutOfMemoryError: CUDA out of memory. (%x = embed, ") == 1
    assert "8.00*" in out
    assert "2.00*" not in out
    assert "*: no CUDA graph can be made of it" in out
    name = found.timings[-1].of.lines[0].node
    most = (len(found.timings) - 1) / 1000
    assert f"Kernels differ from PyTorch by {most:.2g} of norms at most: %{name} = " in out


@pytest.fixture(scope="module")
def drawn(for_gpu: Packaged) -> Benchmark:
    return benchmark(for_gpu, Demand(1, 64), ("decode", "train"), microseconds, Silent())


@pytest.mark.parametrize(("name", "start"), [("p.svg", b"<?xml"), ("p.png", b"\x89PNG")])
def test_a_picture_is_drawn(name: str, start: bytes, drawn: Benchmark, tmp_path: Path) -> None:
    path = tmp_path / "plots" / name
    draw(drawn, path)
    assert path.read_bytes().startswith(start)
    assert path.stat().st_size > 10_000
    if name.endswith("svg"):
        experts = "%fused_experts = fused_experts"
        named = f"{experts} (decode)", f"{experts}, backward (train)"
        for said in ("roofline", "at most, float32", "train", *named):
            assert f"<!-- {said} -->" in path.read_text()


def test_no_picture_without_matplotlib_or_of_another_kind(
    drawn: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArchsmithError, match=r"a picture is .svg or .png"):
        draw(drawn, tmp_path / "p.gif")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(EnvironmentMissing, match=r"pip install 'archsmith\[plot\]'"):
        draw(drawn, tmp_path / "p.svg")
    assert list(tmp_path.iterdir()) == []


def test_the_command_times_pytorch_on_a_cpu(for_cpu: Packaged, tmp_path: Path) -> None:
    command = ["bench", str(for_cpu.folder), "--phase", "decode", "--context", "8"]
    found = CliRunner().invoke(main, [*command, "--phase", "train", "--no-compile", "--json"])
    assert found.exit_code == 0, found.stderr
    data = json.loads(found.stdout)
    assert (data["target"], data["machine"]["device"]) == ("cpu", "cpu")
    assert {timing["op"] for timing in data["timings"]} >= {"attend", "einsum", "rope", "embed"}
    for timing in data["timings"]:
        assert timing["failed"] == {}
        assert set(timing["seconds"]) == {"pytorch"}
        assert 1e-7 < timing["seconds"]["pytorch"] < 1
        assert timing["floor_seconds"] is None
    told = {(t["op"], *t["gradients"]): t["seconds"]["pytorch"] for t in data["timings"]}
    assert told["linear_cross_entropy", "x", "weight"] > 1e-6
    too_long = CliRunner().invoke(main, [*command[:-1], "257"])
    assert too_long.exit_code == 1
    assert "--context 257 is more than tiny-llama takes: 256" in too_long.stderr


def test_without_a_gpu_kernels_have_no_time_and_pytorch_has(
    for_gpu: Packaged, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.compile` is only seen to be asked: to load it takes longer than all else."""
    importlib.import_module("triton")  # which reads how it is to run once
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    functorch = importlib.import_module("torch._functorch.config")
    monkeypatch.setattr(functorch, "donated_buffer", True)
    asked: list[dict[str, Any]] = []
    runs: list[int] = []

    def compiled(function: Any, **options: Any) -> Any:
        at = len(asked)
        asked.append(options)
        return lambda *operands: runs.append(at) or function(*operands)

    monkeypatch.setattr(torch, "compile", compiled)

    def measure(job: Job) -> Iterator[Machine | Times]:
        calls = [call for call in job.calls if call["file"] == "rms_norm_linear"][:1]
        calls += [call for call in job.calls if call["file"] == "rms_norm" and call["alone"]][:1]
        calls += [call for call in job.calls if call["file"] == "project_latent"]  # it writes rows
        few = replace(job, calls=calls, rounds=1, least=0.0, sets=1)
        results = list(here(for_gpu, few))
        for timed in results[1:]:
            assert isinstance(timed, Times)
            assert timed.failed == {"kernel": "no GPU"}
            assert set(timed.seconds) == {"pytorch", "compiled"}
            assert max(timed.differ.values()) == 0
        assert asked == [{"dynamic": False, "backend": "inductor"}] * 3
        assert min(runs.count(0), runs.count(2)) > 2
        assert runs.count(1) == 1  # its gradients are taken again, and it is not
        # Else what is compiled gives its memory away when it is differentiated once.
        assert functorch.donated_buffer is False
        yield from results[:1]
        yield from (replace(timed, key=call["key"]) for call in job.calls)

    found = benchmark(for_gpu, Demand(1, 8), ("decode", "train"), measure, Silent())
    show(found)
    out = capsys.readouterr().out
    line, *_ = (line for line in out.splitlines() if "triton.add_rms_norm_linear" in line)
    assert [cell.strip() for cell in line.split("│")][4] == "no GPU"
    assert "PyTorch finds no GPU here" in out


def test_a_package_of_another_archsmith_is_not_guessed_at(
    for_cpu: Packaged, tmp_path: Path
) -> None:
    plan = for_cpu.folder / "plan.json"
    text = plan.read_text()
    try:
        plan.write_text(text.replace('"torch.attend"', '"torch.attend_before"'))
        with pytest.raises(ArchsmithError, match=r"(?s)built with other kernels.*build .* anew"):
            packaged(for_cpu.folder)
        plan.write_text("{}")
        with pytest.raises(ArchsmithError, match="is not as it was written"):
            packaged(for_cpu.folder)
    finally:
        plan.write_text(text)
