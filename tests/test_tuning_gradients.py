"""Tuning what trains: gradients are timed alone, and truly, once, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from archsmith.compiler.emit.measure import Job, Machine, Times
from archsmith.compiler.errors import ProofError
from archsmith.compiler.machine.tuned import Table
from archsmith.compiler.packaged import Packaged
from archsmith.compiler.schedule.forecast import Demand
from archsmith.compiler.schedule.rungs import rungs
from archsmith.compiler.spec.source import read
from archsmith.compiler.tuning import tune
from measuring import CARD, Silent, alike, by, here

DEMAND = Demand(1, 4)


@pytest.fixture
def package(tuned_llama: Packaged) -> Packaged:
    return tuned_llama


def test_gradients_are_timed_alone_with_results_by_the_first_tiles(
    package: Packaged, tmp_path: Path
) -> None:
    asked: list[Job] = []
    tune(package, tmp_path / "t.yaml", DEMAND, by(alike, asked=asked), Silent())
    (job,) = asked
    every = list(rungs(package.plan, DEMAND))
    trained = {rung.kernel.name: rung for rung in every if rung.of_gradients}
    names = "add_rms_norm", "gated_activation"
    assert set(trained) == {f"triton.{name}_gradients" for name in names}
    norm = trained["triton.add_rms_norm_gradients"]
    assert norm.called.name == "triton.add_rms_norm"
    width = norm.where[2][0]
    for i, config in enumerate(norm.found):
        files = job.folders[f"g{i}"]
        options = ", ".join(f'"{key}": {value}' for key, value in config.options().items())
        assert f"{width}: {{{options}}}" in files["kernels/add_rms_norm_gradients.py"]
        assert files["kernels/add_rms_norm.py"] == job.folders["v0"]["kernels/add_rms_norm.py"]
    found = {call["key"]: call for call in job.calls}
    for rung in every:
        for call in rung.calls:
            asked_of = found[f"{rung} {call}"]
            names = [operand["name"] for operand in asked_of["operands"]]
            assert tuple(names[i] for i in asked_of["gradients"]) == call.gradients
            assert asked_of["alone"] == bool(call.gradients) >= rung.of_gradients
            folders = {variant["package"][0] for variant in asked_of["variants"]}
            assert folders == {"g" if rung.of_gradients else "v"}
    # Tiles that gradients have too are measured for both.
    for name, calls in (("rope", ["prefill", "train"]), ("gated_activation", ["prefill"])):
        rung = next(rung for rung in every if rung.kernel.name == f"triton.{name}")
        assert [call.phase for call in rung.calls if call.phase != "decode"] == calls
    (loss,) = (rung for rung in every if rung.kernel.name == "triton.linear_cross_entropy")
    assert [call.gradients for call in loss.calls] == [(), ("x", "weight")]


@pytest.mark.parametrize(
    ("file", "folder", "wrong", "said"),
    [
        ("gated_activation", "v", (") * up\n", ") * up * 2\n"), ("gates, ups, y", "gates, no, y")),
        (
            "gated_activation_gradients",
            "g",
            ("(dy * up * slope)", "(dy * up * slope * 2)"),
            ("gates,\n        ups", "gates,\n        no"),
        ),
    ],
    ids=["results", "gradients"],
)
def test_a_child_measures_what_is_left(
    file: str,
    folder: str,
    wrong: tuple[str, str],
    said: tuple[str, str],
    package: Packaged,
    tmp_path: Path,
) -> None:
    """All but one tile is in the table; that is timed in Triton's interpreter, as on a GPU."""
    output = tmp_path / "t.yaml"
    found, _ = tune(package, output, DEMAND, by(alike), Silent())
    (where,) = (entry.address for entry in found.kernels if entry.kernel == f"triton.{file}")
    others = [entry for entry in found.kernels if entry.address != where]
    output.write_text(found.model_copy(update={"kernels": others}).text())

    def measure(job: Job) -> Iterator[Machine | Times]:
        assert {call["file"] for call in job.calls} == {"gated_activation"}
        for found in here(package, replace(job, rounds=1, least=0.0, sets=1)):
            if isinstance(found, Machine):
                assert found.card == "Triton's interpreter"
                yield CARD
            else:
                assert set(found.seconds) == {v["name"] for v in job.calls[0]["variants"]}
                assert max(found.differ.values()) < 1e-6
                assert min(found.seconds.values()) > 1e-5
                yield found

    again, notes = tune(package, output, DEMAND, measure, Silent())
    assert notes == []
    (rung,) = (rung for rung in rungs(package.plan, DEMAND) if rung.where == where)
    assert again.tiles[where][None] in [config.options() for config in rung.found]

    def broken(job: Job) -> Iterator[Machine | Times]:
        """The same, but that the second candidate's file is wrong, and the third's does not run."""
        folders = {name: dict(files) for name, files in job.folders.items()}
        for name, (old, new) in ((f"{folder}1", wrong), (f"{folder}2", said)):
            text = folders[name][f"kernels/{file}.py"]
            folders[name][f"kernels/{file}.py"] = text.replace(old, new)
            assert old in text
        _, *each = here(package, replace(job, folders=folders, rounds=1, least=0.0, sets=1))
        for found in each:
            assert isinstance(found, Times)
            assert found.differ["1"] == pytest.approx(1)
            assert found.failed == {"2": "NameError: name 'no' is not defined"}
        yield from (CARD, *each)

    output.write_text(found.model_copy(update={"kernels": others}).text())
    with pytest.raises(ProofError, match=rf"triton.{file} float32 \(168\): {{'BLOCK'"):
        tune(package, output, DEMAND, broken, Silent())
    assert Table.of(read(output)).tiles[where][None] != rung.found[1].options()
