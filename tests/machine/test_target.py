"""Targets: their files are complete, and a wrong one is refused in words."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.errors import PluginError
from archsmith.compiler.ir.types import FLOATS
from archsmith.compiler.machine.target import FIGURES, Target
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.source import parse

CHIPS = ("a100", "h100", "h200", "b200", "mi300x")


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    return Registry.installed(("targets",)).targets


def test_five_chips_and_any_processor_are_there(targets: dict[str, Target]) -> None:
    assert {*CHIPS, "cpu"} <= targets.keys()
    cpu = targets["cpu"]
    assert (cpu.triton, cpu.bandwidth, dict(cpu.peak), dict(cpu.sources)) == (None, 0.0, {}, {})


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_states_every_figure(name: str, targets: dict[str, Target], root: Path) -> None:
    target = targets[name]
    assert target.triton is not None
    assert set(FLOATS) <= target.peak.keys()
    assert ("float8" in target.peak) == any(f.startswith("fp8") for f in target.features)
    assert target.sources.keys() == {*FIGURES, *(f"peak.{dtype}" for dtype in target.peak)}
    # No source stands there that no figure is from.
    file = root / "compiler" / "machine" / "targets" / f"{name}.yaml"
    tree = parse(file.read_text(encoding="utf-8"), file.name).tree
    assert set(tree["sources"].values()) == set(target.sources.values())
    # As many bytes fit into a program as a unit has, and a warp's worth of figures is plausible.
    assert 2**16 <= target.shared_memory < 2**18
    assert 1e12 < target.bandwidth < target.peak["float64"] < target.peak["bfloat16"] < 1e16
    assert 64e9 < target.memory < 1e12
    assert 1e-7 < target.launch < 1e-5


@pytest.mark.parametrize(
    ("name", "backend", "arch", "warp", "shared"),
    [
        ("a100", "cuda", 80, 32, 163 * 1024),
        ("h100", "cuda", 90, 32, 227 * 1024),
        ("h200", "cuda", 90, 32, 227 * 1024),
        ("b200", "cuda", 100, 32, 227 * 1024),
        ("mi300x", "hip", "gfx942", 64, 64 * 1024),
    ],
)
def test_triton_is_told_which_chip(
    name: str, backend: str, arch: int | str, warp: int, shared: int, targets: dict[str, Target]
) -> None:
    target = targets[name]
    assert target.triton == {"backend": backend, "arch": arch, "warp_size": warp}
    assert target.shared_memory == shared


def test_a_target_of_ones_own_needs_no_figures() -> None:
    target = Target.of("mine", {"describes": "an accelerator", "features": ["fused_norms"]})
    assert target == Target("mine", "an accelerator", ("fused_norms",))


def test_a_figure_is_read_with_its_source() -> None:
    data = {
        "describes": "a chip",
        "sources": {"sheet": "The sheet, 2024", "paper": "A paper"},
        "bandwidth": {"value": 4.8e12, "source": "sheet"},
        "processors": {"value": 132, "source": "paper"},
        "peak": {"bfloat16": {"value": 9.9e14, "source": "sheet"}},
    }
    target = Target.of("mine", data)
    assert (target.bandwidth, target.processors, target.peak) == (4.8e12, 132, {"bfloat16": 9.9e14})
    assert target.sources == {
        "bandwidth": "The sheet, 2024",
        "processors": "A paper",
        "peak.bfloat16": "The sheet, 2024",
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"colour": "red"}, "has no field colour"),
        ({"bandwidth": 4.8e12}, "bandwidth has no source; write bandwidth: {value: ..."),
        ({"peak": {"float16": 1e12}}, "peak.float16 has no source"),
        ({"memory": {"value": 8, "source": "hearsay"}}, "from 'hearsay', of which `sources` says"),
        ({"memory": {"value": -1, "source": "sheet"}}, "memory is -1, which is no number above"),
        ({"memory": {"value": "80e9x", "source": "sheet"}}, "no number above zero"),
        ({"launch": {"value": float("nan"), "source": "sheet"}}, "no number above zero"),
        ({"triton": {"backend": "cuda"}}, "`triton` needs arch, backend, warp_size and nothing"),
        ({"sources": ["sheet"]}, "`sources` and `peak` are mappings"),
    ],
)
def test_a_wrong_one_is_refused_in_words(wrong: dict[str, Any], said: str) -> None:
    data = {"describes": "a chip", "sources": {"sheet": "The sheet"}, **wrong}
    with pytest.raises(PluginError, match="target mine: ") as raised:
        Target.of("mine", data)
    assert said in str(raised.value)


def test_a_target_says_what_it_describes() -> None:
    with pytest.raises(PluginError, match="target mine: a target needs `describes`; it has "):
        Target.of("mine", {"features": ["fp8"]})


def test_the_page_shows_a_target_that_loads_and_has_every_field(
    targets: dict[str, Target], root: Path
) -> None:
    page = (root / "docs" / "targets.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    tree = parse(shown, "accelerator.yaml").tree
    assert Target.of("accelerator", tree).bandwidth == 4e12
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert {field.name for field in fields(Target)} - {"name"} == set(tree) <= rows
    assert {feature for name in CHIPS for feature in targets[name].features} <= rows
