"""Kernels that would overwrite each other, and kernels whose own code fails, are named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import PluginError
from archsmith.compiler.plugins import Registry

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-llama.yaml"
KERNEL = """
from archsmith.compiler.ir.cost import Cost
from archsmith.compiler.schedule.code import call
from archsmith.compiler.schedule.kernel import Kernel


class Ours(Kernel):
    name = "ours.gated"
    implements = "gated_activation"
    functions = ("{function}",)

    def refuses(self, op, operands, target):
        {refuses}

    def cost(self, op, operands, sizes, target):
        return Cost()

    def call(self, op, gate, up, *, phases):
        return call("{function}", gate, up)
"""


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Builds with a plugin of one kernel; its file's name, its code and its template are given."""

    def build(stem: str, template: str = "", **code: str) -> None:
        folder = tmp_path / "clashing_kernels"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        code = {"function": "gated", "refuses": "return None", **code}
        (folder / f"{stem}.py").write_text(KERNEL.format(**code))
        (folder / f"{stem}.py.jinja").write_text(template)
        monkeypatch.syspath_prepend(str(tmp_path))
        registry = Registry.installed()
        plugin: ModuleType = __import__("clashing_kernels")
        registry.add_package(plugin)
        compiler = Compiler(registry, registry.targets["cpu"], numeric=False)
        name, passes = compiler.passes("O1")
        spec = compiler.load(EXAMPLE)
        compiler.package(spec, tmp_path / "package", name, passes, prove=False)

    yield build
    for name in [name for name in sys.modules if name.startswith("clashing_kernels")]:
        del sys.modules[name]


def test_one_file_of_two_modules(built: object) -> None:
    both = r"kernels/rope\.py would be written by both archsmith\.\S+ and clashing_kernels\.rope"
    with pytest.raises(PluginError, match=both):
        built("rope")


def test_one_function_of_two_modules(built: object) -> None:
    both = r"function rope is defined by both .*(clashing_kernels\.gated|archsmith\.\S+rope)"
    with pytest.raises(PluginError, match=both):
        built("gated", function="rope")


@pytest.mark.parametrize(
    ("template", "refuses", "said"),
    [
        ("", "return 1 // 0", r"kernel ours\.gated \(clashing_kernels\.gated\): ZeroDivisionError"),
        ("{{ tables.GONE }}", "return None", r"kernel ours\.gated .*: UndefinedError"),
        ("{% if %}", "return None", r"kernel ours\.gated .*: TemplateSyntaxError"),
    ],
)
def test_a_kernel_whose_own_code_fails(
    built: object, template: str, refuses: str, said: str
) -> None:
    with pytest.raises(PluginError, match=said):
        built("gated", template, refuses=refuses)
