"""Tiles by tables: used where they are the kernel's own, noted where they are stale, else left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.errors import ArchsmithError, PluginError
from archsmith.compiler.ir.model import Model
from archsmith.compiler.machine.tuned import Address, Table
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import address, candidates
from archsmith.compiler.schedule.forecast import forecast
from archsmith.compiler.schedule.kernel import Config
from archsmith.compiler.schedule.plan import Plan, stale
from archsmith.compiler.spec.diagnostics import SpecError
from schedule.tables import table

EXAMPLES = Path(__file__).parents[2] / "examples"
FACTS = Facts("0", 1, 1, 1, "h200", "O2", {})
Offered = Callable[[str, int | None], tuple[Address, list[Config]]]


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler.installed("h200", numeric=False)


@pytest.fixture(scope="module")
def model(compiler: Compiler) -> Model:
    _, passes = compiler.passes("O2")
    spec = compiler.load(EXAMPLES / "deepseek-v2-lite.yaml")
    return compiler.rewrite(compiler.build(spec), passes)[0]


@pytest.fixture(scope="module")
def offered(compiler: Compiler, model: Model) -> Offered:
    """Where a table has a kernel's tiles, and its candidates for calls of up to so many rows."""
    plan = compiler.schedule(model)

    def of(kernel: str, limit: int | None) -> tuple[Address, list[Config]]:
        choice = next(c for c in plan.choices if c.kernel.name == kernel)
        rows = dict(choice.kernel.rungs())[limit]
        found = candidates(choice.kernel, choice.op, choice.operands, rows, plan.target)
        return address(choice.kernel, choice.op, choice.operands), found

    return of


def tuned(compiler: Compiler, model: Model, found: Table) -> Plan:
    return replace(compiler, tuned=found).schedule(model)


def tiles(plan: Plan, kernel: str) -> dict[int | None, Config]:
    return dict(next(plan.use(c).tiles for c in plan.choices if c.kernel.name == kernel))


def test_a_measured_tile_is_used_and_said_to_be_measured(
    compiler: Compiler, model: Model, offered: Offered
) -> None:
    norm, grouped = "triton.rms_norm", "triton.grouped_gemm"
    (where, norms), (there, products) = offered(norm, None), offered(grouped, 1)
    plan = tuned(
        compiler,
        model,
        table("h200", (where, None, norms[2].options()), (there, 1, products[1].options())),
    )
    assert norms[2] != norms[0]
    assert tiles(plan, norm) == {None: norms[2]}
    assert tiles(plan, norm)[None].measured
    by_rows = tiles(plan, grouped)
    assert by_rows[1] == products[1]
    before = tiles(compiler.schedule(model), grouped)
    assert by_rows[1] != before[min(before, key=lambda n: n or 1 << 30)]
    assert [config.measured for config in by_rows.values()] == [True] + [False] * (len(by_rows) - 1)
    assert stale(plan) == []
    files = emit(plan, compiler.registry.templates, FACTS)
    assert files == emit(plan, compiler.registry.templates, FACTS)
    shown = ", ".join(f'"{key}": {value}' for key, value in norms[2].options().items())
    assert f"{{512: {{{shown}}}}}" in files["kernels/rms_norm.py"]
    entries = [e for es in json.loads(files["plan.json"])["kernels"].values() for e in es]
    said = {e["kernel"]: [t.get("measured") for t in e["tiles"]] for e in entries if "tiles" in e}
    assert said[norm] == [True]
    assert said[grouped][:2] == [True, None]
    assert said["triton.rope"] == [None]


def test_a_measured_tile_of_gradients_is_in_their_file(compiler: Compiler, model: Model) -> None:
    """Experts' by rows, a norm's by its width; one that is no candidate is noted and left."""
    plain = compiler.schedule(model)
    (experts,) = {c for c, k in plain.compiled() if k.name == "triton.grouped_gemm_gradients"}
    kernel = plain.gradients["triton.grouped_gemm"]
    found = candidates(kernel, experts.op, experts.operands, 128, plain.target)
    where = address(kernel, experts.op, experts.operands)
    norm = ("triton.rms_norm_gradients", "bfloat16", (512,))
    options = {"ROWS": 8, "BLOCK": 512, "STAGES": 2, "num_warps": 8}
    entries = (where, 128, found[2].options()), (norm, None, options)
    plan = tuned(compiler, model, table("h200", *entries, (where, 512, {"BLOCK_M": 16})))
    (note,) = stale(plan)
    assert note.startswith("measured tiles of triton.grouped_gemm_gradients (66, 2048, 1408, 8)")
    tiles = dict(plan.use(experts, kernel).tiles)
    assert tiles[64] == dict(plain.use(experts, kernel).tiles)[512]
    assert tiles[128] == found[2] != tiles[64]
    assert tiles[128].measured
    assert forecast(plan).tiles[0] == 2
    files = emit(plan, compiler.registry.templates, FACTS)
    assert f"512: {json.dumps(options)}" in files["kernels/rms_norm_gradients.py"]
    shown = ", ".join(f'"{key}": {value}' for key, value in found[2].options().items())
    flat = " ".join(files["kernels/grouped_gemm_gradients.py"].split())
    assert f"128: {{ {shown}, }}" in flat or f"128: {{{shown}}}" in flat
    before = emit(plain, compiler.registry.templates, FACTS)
    assert files["kernels/grouped_gemm.py"] == before["kernels/grouped_gemm.py"]
    said = {g["kernel"]: g for g in json.loads(files["plan.json"])["gradients"]}
    assert said["triton.rms_norm_gradients"]["of"] == ["triton.rms_norm"]
    assert said["triton.rms_norm_gradients"]["tiles"] == [
        {"sizes": [512], "rows": None, **options, "measured": True}
    ]


def test_tiles_that_are_alike_are_measured_if_all_are(
    compiler: Compiler, model: Model, offered: Offered
) -> None:
    kernel = compiler.registry.kernels["triton.grouped_gemm"]()
    (where, (first, *_)), (_, (second, *_)) = (offered(kernel.name, n) for n in (4096, None))
    assert first == second
    every = [(where, n, offered(kernel.name, n)[1][0].options()) for n, _ in kernel.rungs()]
    for entries, measured in ((every, True), ([e for e in every if e[1] != 4096], False)):
        found = tiles(tuned(compiler, model, table("h200", *entries)), kernel.name)
        assert found[None].measured == measured
        assert found[min(n for n in found if n)].measured


@pytest.mark.parametrize(
    ("limit", "change"),
    [(None, {"num_warps": 3}), (None, {"BLOCK_M": 16}), (96, {})],
    ids=["no candidate", "another constant", "no such rows"],
)
def test_a_stale_tile_is_noted_and_not_used(
    limit: int | None,
    change: dict[str, int],
    compiler: Compiler,
    model: Model,
    offered: Offered,
) -> None:
    where, found = offered("triton.rms_norm", None)
    plan = tuned(compiler, model, table("h200", (where, limit, {**found[1].options(), **change})))
    (note,) = stale(plan)
    assert note.startswith("measured tiles of triton.rms_norm (512) for ")
    assert "are stale: the kernel does not offer {" in note
    assert tiles(plan, "triton.rms_norm") == {None: found[0]}
    assert not tiles(plan, "triton.rms_norm")[None].measured


def test_tiles_of_other_sizes_and_targets_are_left(
    compiler: Compiler, model: Model, offered: Offered
) -> None:
    (kernel, dtype, _), found = offered("triton.rms_norm", None)
    options = found[1].options()
    for other in (
        table("h200", ((kernel, dtype, (4096,)), None, options)),
        table("h200", ((kernel, "float32", (512,)), None, options)),
        table("a100", ((kernel, dtype, (512,)), None, options)),
    ):
        plan = tuned(compiler, model, other)
        assert stale(plan) == []
        assert tiles(plan, "triton.rms_norm") == {None: found[0]}


def test_a_plugin_ships_tables_and_the_users_goes_before(
    model: Model, offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, found = offered("triton.rms_norm", None)
    folder = tmp_path / "shipped_tables"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "h200.yaml").write_text(table("h200", (where, None, found[1].options())).text())
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry.installed()
    registry.add_package(__import__("shipped_tables"))
    compiler = Compiler(registry, registry.targets["h200"], numeric=False)
    assert registry.targets.keys() == Registry.installed().targets.keys()
    assert tiles(compiler.schedule(model), "triton.rms_norm") == {None: found[1]}
    own = table("h200", (where, None, found[2].options()))
    assert tiles(tuned(compiler, model, own), "triton.rms_norm") == {None: found[2]}
    (folder / "h100.yaml").write_text("tuned: 1\n")
    with pytest.raises((SpecError, PluginError), match="target"):
        registry.add_package(__import__("shipped_tables"))


def test_a_table_of_another_target_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tuned.yaml").write_text(table("a100").text())
    with pytest.raises(ArchsmithError, match=r"was measured for a100, not for h200\n  = help: "):
        Compiler.installed("h200", tuned=tmp_path / "tuned.yaml")
