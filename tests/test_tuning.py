"""Tuning: what is measured, chosen, kept and gone on with; once truly, in Triton's interpreter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.measure import Job, Machine, Times, unlike
from archsmith.compiler.errors import ArchsmithError, EnvironmentMissing, ProofError
from archsmith.compiler.machine.tuned import Table
from archsmith.compiler.packaged import Packaged
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import address
from archsmith.compiler.schedule.forecast import Demand
from archsmith.compiler.schedule.plan import stale
from archsmith.compiler.schedule.rungs import rungs
from archsmith.compiler.spec.source import read
from archsmith.compiler.tuning import tune
from click.testing import CliRunner
from measuring import CARD, Silent, alike, by
from schedule.tables import table

EXAMPLES = Path(__file__).parents[1] / "examples"
DEMAND = Demand(1, 4)


@pytest.fixture
def package(tuned_llama: Packaged) -> Packaged:
    return tuned_llama


def test_the_quickest_is_kept_and_a_build_uses_it(package: Packaged, tmp_path: Path) -> None:
    output = tmp_path / "t.yaml"

    def clock(call: dict[str, Any], name: str) -> float:
        return {"1": 1.0, "2": 1.97}.get(name, 2.0)

    found, notes = tune(package, output, DEMAND, by(clock), Silent())
    every = list(rungs(package.plan, DEMAND))
    assert notes == []
    assert found == Table.of(read(output))
    assert (found.target, found.card, found.torch) == ("h200", "NVIDIA H200", "2.13.0")
    assert sum(len(entry.tiles) for entry in found.kernels) == len(every) > 6
    for rung in every:
        assert found.tiles[rung.where][rung.limit] == rung.found[1].options()
    for entry in found.kernels:
        for tile in entry.tiles:
            assert set(tile.us) == {1.0}
            assert set(tile.default_us) == {2.0}
            assert len(tile.us) == len(tile.calls)
    compiler = Compiler.installed("h200", numeric=False, tuned=output)
    plan = compiler.schedule(package.plan.model)
    assert stale(plan) == []
    chosen = {rung.where for rung in every}  # else there is one candidate
    met = set()
    for choice, kernel in plan.compiled():
        where = address(kernel, choice.op, choice.operands)
        if where in chosen:
            met.add(where)
            assert all(config.measured for _, config in plan.use(choice, kernel).tiles)
    assert met == chosen


def test_each_candidate_is_in_the_package_that_is_timed(package: Packaged, tmp_path: Path) -> None:
    asked: list[Job] = []
    tune(package, tmp_path / "t.yaml", DEMAND, by(alike, asked=asked), Silent())
    (job,) = asked
    every = list(rungs(package.plan, DEMAND))
    (rope,) = (rung for rung in every if rung.where[2] == (6, 12))
    width = package.plan.model.blocks["layer"].params["qkv"].type.row[0].size
    assert width == 120
    for i, config in enumerate(rope.found):
        options = ", ".join(f'"{key}": {value}' for key, value in config.options().items())
        assert f"(6, 12): {{{options}}}" in job.folders[f"v{i}"]["kernels/rope.py"]
    rows = {tuple(call["operands"][0]["shape"]) for call in job.calls if call["file"] == "rope"}
    assert rows == {(1, 4, 6, 12), (1, 4, 2, 12)}  # decode has them in what it appends
    prefill = [call for call in job.calls if call["file"] == "prefill_attention"]
    assert [call["operands"][1]["shape"][1] for call in prefill] == [16, 64, 128]
    appending = [c for c in job.calls if any(o["kind"] == "slots" for o in c["operands"])]
    assert {call["file"] for call in appending} == {"project_heads"}


def test_the_commands_take_a_table_and_note_what_is_stale(
    package: Packaged, tmp_path: Path
) -> None:
    (rope,) = (rung for rung in rungs(package.plan, DEMAND) if rung.where[2] == (6, 12))
    (other,) = (rung for rung in rungs(package.plan, DEMAND) if rung.where[2] == (2, 12))
    page = str(EXAMPLES / "tiny-llama.yaml")
    good, bad = dict(rope.found[1].options()), {"HEADS": 3, "num_warps": 1}
    output = tmp_path / "t.yaml"
    output.write_text(table("h200", (rope.where, None, good), (other.where, None, bad)).text())
    said = CliRunner().invoke(main, ["plan", page, "--target", "h200", "--tuned", str(output)])
    assert said.exit_code == 0, said.stderr
    assert "note: measured tiles of triton.rope (2, 12) for any number of rows are" in said.stderr
    (line,) = (x for x in said.stdout.splitlines() if "tiles that were measured" in x)
    assert line.split("│")[2].split()[:2] == ["1", "of"]
    built = ["build", page, "--target", "h200", "--no-proof", "-o", str(tmp_path / "tuned_too")]
    made = CliRunner().invoke(main, [*built, "--tuned", str(output), "--json"])
    assert made.exit_code == 0, made.stderr
    (note,) = json.loads(made.stdout)["stale"]
    assert note.endswith(f"the kernel does not offer {bad} here")
    tiles = (tmp_path / "tuned_too" / "kernels" / "rope.py").read_text()
    assert f"(6, 12): {json.dumps(good)}" in tiles
    wrong = CliRunner().invoke(main, [*built[:3], "a100", *built[4:], "--tuned", str(output)])
    assert wrong.exit_code == 1
    assert "was measured for h200, not for a100" in wrong.stderr


def test_what_is_won_within_noise_is_left(package: Packaged, tmp_path: Path) -> None:
    def clock(call: dict[str, Any], name: str) -> float:
        return 2.0 if name == "0" else 1.97

    found, _ = tune(package, tmp_path / "t.yaml", DEMAND, by(clock), Silent())
    for rung in rungs(package.plan, DEMAND):
        assert found.tiles[rung.where][rung.limit] == rung.found[0].options()


def test_calls_of_one_tile_weigh_alike(package: Packaged, tmp_path: Path) -> None:
    """A tile that wins a quarter where it is slow, and loses a half where it is quick, loses."""

    def clock(call: dict[str, Any], name: str) -> float:
        many = call["fresh"]
        return {"0": 100.0 if many else 2.0, "1": 75.0 if many else 3.0}.get(name, 100.0)

    found, _ = tune(package, tmp_path / "t.yaml", DEMAND, by(clock), Silent())
    (norm,) = (r for r in rungs(package.plan, DEMAND) if r.kernel.name == "triton.add_rms_norm")
    assert len(norm.calls) == 2
    assert found.tiles[norm.where][None] == norm.found[0].options()


def test_a_run_that_is_cut_off_goes_on_where_it_was(package: Packaged, tmp_path: Path) -> None:
    output = tmp_path / "t.yaml"
    left = 5

    def clock(call: dict[str, Any], name: str) -> float:
        nonlocal left
        left -= name == "0"
        if left < 0:
            raise KeyboardInterrupt
        return 2.0

    with pytest.raises(KeyboardInterrupt):
        tune(package, output, DEMAND, by(clock), Silent())
    kept = Table.of(read(output))
    count = sum(len(entry.tiles) for entry in kept.kernels)
    every = list(rungs(package.plan, DEMAND))
    assert 0 < count < len(every)
    assert [file.name for file in tmp_path.iterdir()] == ["t.yaml"]
    asked: list[Job] = []
    found, _ = tune(package, output, DEMAND, by(alike, asked=asked), Silent())
    assert len(asked[0].calls) == sum(len(rung.calls) for rung in every[count:])
    for where, tiles in kept.tiles.items():
        assert tiles.items() <= found.tiles[where].items()
    assert sum(len(entry.tiles) for entry in found.kernels) == len(every)
    tune(package, output, DEMAND, by(alike, asked=asked), Silent())
    assert len(asked) == 1  # there was nothing left to measure


def test_a_table_of_other_things_is_not_gone_on_with(package: Packaged, tmp_path: Path) -> None:
    output = tmp_path / "t.yaml"
    found, _ = tune(package, output, DEMAND, by(alike), Silent())
    part = found.model_copy(update={"kernels": found.kernels[:1]})
    for change, said in (
        ({"torch": "2.12.0"}, r"with torch '2.12.0', not '2.13.0' as here"),
        ({"target": "a100"}, r"is of a100, not of h200"),
    ):
        text = part.model_copy(update=change).text()
        output.write_text(text)
        with pytest.raises(ArchsmithError, match=said):
            tune(package, output, DEMAND, by(alike), Silent())
        assert output.read_text() == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "cpu"}, "PyTorch finds no GPU here, and the package is for h200"),
        ({"arch": "80"}, r"the GPU here is NVIDIA H200 \(80, 151 GB\)"),
        ({"memory": 85 * 10**9}, r"\(90, 85 GB\); the package is for h200 \(90, 141 GB\)"),
    ],
)
def test_another_card_is_not_measured(
    change: dict[str, Any], said: str, package: Packaged, tmp_path: Path
) -> None:
    card = replace(CARD, **change)
    with pytest.raises(EnvironmentMissing, match=said):
        tune(package, tmp_path / "t.yaml", DEMAND, by(alike, card=card), Silent())
    assert list(tmp_path.iterdir()) == []


def test_other_cards_are_told_by_their_own_names(registry: Registry) -> None:
    card = Machine("cuda", "AMD Instinct MI300X", "gfx942", 205_822_885_888, "", "", "")
    assert unlike(card, registry.targets["mi300x"]) is None
    assert unlike(CARD, registry.targets["h200"]) is None
    assert unlike(CARD, registry.targets["h100"]) is not None
    assert unlike(CARD, registry.targets["cpu"]) is None


def test_what_does_not_run_is_noted_and_what_is_wrong_fails(
    package: Packaged, tmp_path: Path
) -> None:
    output = tmp_path / "t.yaml"

    def measure(job: Job) -> Iterator[Machine | Times]:
        """The second candidate is quick and wrong, the third too large to run."""
        for times in by(alike)(job):
            if isinstance(times, Times):
                seconds = {n: s for n, s in times.seconds.items() if n != "2"} | {"1": 1e-9}
                failed = {"2": "OutOfResources: shared memory"} if "2" in times.seconds else {}
                times = Times(times.key, seconds, {**times.differ, "1": 0.5}, failed)
            yield times

    with pytest.raises(ProofError, match="candidates compute something else than the first"):
        tune(package, output, DEMAND, measure, Silent())
    found = Table.of(read(output))
    for rung in rungs(package.plan, DEMAND):
        assert found.tiles[rung.where][rung.limit] == rung.found[0].options()


def test_the_command_says_what_it_needs(package: Packaged, tmp_path: Path) -> None:
    run = CliRunner().invoke
    found = run(main, ["tune", str(package.folder), "-o", str(tmp_path / "t.yaml")])
    assert found.exit_code == 4, found.stderr
    assert "PyTorch finds no GPU here" in found.stderr
    assert "= help: tune where the package is to run" in found.stderr
    built = ["build", str(EXAMPLES / "tiny-llama.yaml"), "--no-proof", "-o"]
    assert run(main, [*built, str(tmp_path / "cpu_llama")]).exit_code == 0
    found = run(main, ["tune", str(tmp_path / "cpu_llama"), "-o", str(tmp_path / "t.yaml")])
    assert found.exit_code == 1
    assert "has no Triton kernel to tune: it was built for cpu" in found.stderr
    (tmp_path / "cpu_llama" / "graph.ir").unlink()
    found = run(main, ["tune", str(tmp_path / "cpu_llama")])
    assert found.exit_code == 1
    assert "holds no graph.ir" in found.stderr
    assert run(main, ["tune", str(tmp_path)]).exit_code == 1
