"""How fast a package decodes: what is timed, what it is held against, and how that is shown."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.measure import Machine
from archsmith.compiler.emit.measure_decoding import SCRIPTS, Decoding, Steps, lay_out
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.count import cache_bytes, moved_bytes, size, weight_bytes
from archsmith.compiler.ir.model import EMBED
from archsmith.compiler.packaged import Packaged, packaged
from archsmith.compiler.plugins import Registry
from archsmith.compiler.throughput import Throughput, throughput
from archsmith.compiler.throughput_views import show
from bench import whole
from click.testing import CliRunner
from measuring import CARD, Silent, within

EXAMPLES = Path(__file__).parents[1] / "examples"
PEER = """
import torch
def model(configuration, device, dtype):
    assert (configuration / "config.json").read_text() == "said"
    return dtype
def decoding(model, rows, context):
    calls = []
    def step(token):
        calls.append(token)
        assert context == 9 and (token.shape, token.dtype) == ((rows,), torch.int64)
        return token + 1
    return step, calls.clear
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    folder = tmp_path_factory.mktemp("throughput") / "some_v2"
    compiler = Compiler.installed("h200", numeric=False)
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v2.yaml")
    compiler.package(spec, folder, *compiler.passes("O2"), prove=False)
    return packaged(folder)


def milliseconds(job: Decoding) -> Iterator[Machine | Steps]:
    """A stand-in for the child: a captured step takes 1 ms, another 5, a peer's 20."""
    yield CARD
    for rows in job.batches:
        seconds = {"captured": 1e-3, "eager": 5e-3} | dict.fromkeys(job.peers, 20e-3)
        yield Steps(str(rows), seconds, {"compiled": "it fails"} if rows > 1 else {})


def inside(job: Decoding, templates: Any, folder: Path) -> Iterator[Machine | Steps]:
    """Measure in this process, which has torch loaded."""
    lay_out(job, templates, folder)
    told = StringIO()
    with within(folder, {"package", "plain", "peers", "machine"}):
        runpy.run_path(SCRIPTS[0])["main"](told)
        plain = vars(sys.modules["plain.model"])
        assert not [name for name, f in plain.items() if hasattr(f, "reference")]
        assert hasattr(sys.modules["package.model"].rms_norm, "reference")
    machine, *each = map(json.loads, told.getvalue().splitlines())
    yield Machine(**machine)
    yield from (Steps(**steps) for steps in each)


def test_every_way_is_timed_and_what_fails_stops_no_other(
    package: Packaged, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.compile` is only seen to be asked: to load it takes longer than all else."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: asked.append(options) or f)

    def measure(job: Decoding) -> Iterator[Machine | Steps]:
        return inside(job, registry.templates, tmp_path)

    peers = {"peer": PEER, "broken": "def model(*_):\n    raise OSError('it is not here')\n"}
    peers["late"] = "def model(*_): ...\ndef decoding(*_):\n    raise MemoryError('too large')\n"
    settings = {"peers": peers, "configuration": "said", "rounds": 2, "least": 0.0}
    found = throughput(package, (1, 3), 9, measure, Silent(), **settings)
    assert asked == [{"dynamic": False, "backend": "inductor"}] * 2
    for rate in found.rates:
        assert set(rate.seconds) == {"eager", "compiled", "peer"}
        assert rate.failed == {
            "captured": "no GPU",
            "broken": "OSError: it is not here",
            "late": "MemoryError: too large",
        }
        assert rate.own == "eager"
        assert rate.tokens("eager") == rate.demand.batch / rate.seconds["eager"]
        assert rate.reached is None  # a CPU is no measure of the target


def test_rows_of_every_dtype_are_filled(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of a latent in float8 too, which PyTorch draws none of."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "machine", SimpleNamespace(machine=None))
    script: dict[str, Any] = {"__name__": "measure"}
    exec(registry.templates[SCRIPTS[0]], script)
    rows = {str(d): torch.zeros(2, 9, 4, dtype=d) for d in (torch.float8_e4m3fn, torch.float64)}
    cache = SimpleNamespace(buffers=[rows])
    model = SimpleNamespace(new_cache=lambda batch, length: cache)
    script["filled"](model, 2, {"context": 8})
    assert all(buffer.double().std() > 0.5 for buffer in rows.values())


def test_rates_are_held_against_the_bytes_that_none_can_save(package: Packaged) -> None:
    model = package.plan.model
    found = throughput(package, (1, 2), 64, milliseconds, Silent(), peers={"p": ""})
    one, two = found.rates
    embedding = sum(2 * 2 * size(p) for p in model.blocks[EMBED].params.values())
    # Of one token all weights are wanted but the table and experts that it is not routed to.
    assert one.moved < weight_bytes(model) - embedding + 64 * cache_bytes(model)
    assert two.moved - one.moved > 64 * cache_bytes(model)
    for rate in found.rates:
        assert rate.reached == pytest.approx(rate.moved / 1e-3 / 4.8e12)
        assert rate.floor is not None
        assert rate.floor.seconds >= rate.moved / 4.8e12
        assert rate.tokens("captured") == pytest.approx(1000 * rate.demand.batch)
    data = json.loads(json.dumps(found.json()))
    assert (data["context"], data["package"], len(data["rates"])) == (64, "some_v2", 2)
    assert data["rates"][1]["tokens_per_second"]["p"] == pytest.approx(100)


def test_without_experts_every_weight_is_moved_once() -> None:
    compiler = Compiler.installed("h200", numeric=False)
    built = compiler.build(compiler.load(EXAMPLES / "tiny-llama.yaml"))
    model, _ = compiler.rewrite(built, compiler.passes("O2")[1])
    wanted = weight_bytes(model) + 3 * 50 * cache_bytes(model)  # the table is the head's too
    assert moved_bytes(model, "decode", Sizes(3, 1, 50)) == wanted


@pytest.fixture
def timed(package: Packaged) -> Throughput:
    return throughput(package, (1, 128), None, milliseconds, Silent(), peers={"theirs": ""})


def test_the_table(timed: Throughput, capsys: pytest.CaptureFixture[str]) -> None:
    assert timed.context == 256  # as many as fit
    show(timed)
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("│  128"))
    cells = [cell.strip() for cell in line.split("│")]
    assert cells[1:5] == ["128", "128,000", "25,600 (5.00)", "6,400 (20.00)"]
    assert cells[-2].endswith("%")
    assert "- compiled: it fails (at 128 rows)" in out
    show(replace(timed, machine=replace(CARD, arch="80")), markdown=True)
    out = capsys.readouterr().out
    assert "| 128 | 128,000 | 25,600 (5.00) | 6,400 (20.00) |" in re.sub(" +", " ", out)
    assert "the package is for h200 (90, 141 GB): these rates are no measure of it" in out


def test_nothing_that_runs_is_an_error(package: Packaged) -> None:
    def fails(job: Decoding) -> Iterator[Machine | Steps]:
        yield CARD
        yield from (Steps(str(rows), {}, {"eager": "it fails"}) for rows in job.batches)

    with pytest.raises(ArchsmithError, match="no step ran: it fails"):
        throughput(package, (1,), 9, fails, Silent())
    with pytest.raises(ArchsmithError, match="--context 100000 is more than"):
        throughput(package, (1,), 100_000, fails, Silent())


@pytest.mark.parametrize(
    "options", [["--model", "--phase", "decode"], ["--model", "-o", "x.svg"], ["--batch", "2"] * 2]
)
def test_options_that_do_not_go_together(package: Packaged, options: list[str]) -> None:
    found = CliRunner().invoke(main, ["bench", str(package.folder), *options])
    assert found.exit_code == 2


def test_the_command_times_a_model_on_a_cpu(package: Packaged) -> None:
    command = ["bench", str(package.folder), "--model", "--batch", "2", "--context", "8"]
    found = CliRunner().invoke(main, [*command, "--no-compile", "--json"])
    assert found.exit_code == 0, found.stderr
    (rate,) = json.loads(found.stdout)["rates"]
    assert set(rate["seconds"]) == {"eager"}
    assert rate["tokens_per_second"]["eager"] == pytest.approx(2 / rate["seconds"]["eager"])


def test_whole_models_beside_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = argparse.Namespace(
        model=["tiny-deepseek-v2"],
        batch=[1, 4],
        context=30,
        no_compile=True,
        target="h200",
        rounds=1,
        json=tmp_path / "found.json",
    )
    jobs: list[Decoding] = []

    def measure(job: Decoding) -> Iterator[Machine | Steps]:
        jobs.append(job)
        return milliseconds(job)

    whole.main(given, ["model", "--model", "tiny-deepseek-v2"], measure)
    out = re.sub(" +", " ", capsys.readouterr().out)
    assert "| 4 | 4,000 | 800 (5.00) | 200 (20.00) |" in out
    assert "from transformers import" in jobs[0].peers["transformers"]
    assert json.loads(jobs[0].configuration)["model_type"] == "deepseek_v2"
    data = json.loads((tmp_path / "found.json").read_text())
    assert data["command"] == "python -m tests.bench model --model tiny-deepseek-v2"
    assert data["models"][0]["rates"][0]["seconds"]["transformers"] == 20e-3
