"""Plugins: packages named by the `archsmith.plugins` entry points, and what they define."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.resources import files
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import ArchsmithError, PluginError
from .machine.target import Target
from .spec.source import parse

if TYPE_CHECKING:
    from .components.component import Component
    from .families.family import Family
    from .ir.op import Op
    from .rewrite.passes import ModelPass, Pass
    from .schedule.kernel import Kernel

GROUP = "archsmith.plugins"
PIPELINES = "pipelines.yaml"
OURS = "archsmith."

KINDS = {
    "archsmith.compiler.components.component.Component": ("components", "kind"),
    "archsmith.compiler.families.family.Family": ("families", "name"),
    "archsmith.compiler.ir.op.Op": ("ops", "name"),
    "archsmith.compiler.rewrite.passes.ModelPass": ("passes", "name"),
    "archsmith.compiler.rewrite.passes.Pass": ("passes", "name"),
    "archsmith.compiler.schedule.kernel.Kernel": ("kernels", "name"),
}
"""Base class -> the table of its plugins, and the class attribute that names one.

Classes are told by the names of their bases, so that checking a spec imports no graph.
"""


@dataclass
class Registry:
    """Everything that the installed plugins offer, by name; a value, built for each use."""

    components: dict[str, type[Component]] = field(default_factory=dict)
    families: dict[str, type[Family]] = field(default_factory=dict)
    kernels: dict[str, type[Kernel]] = field(default_factory=dict)
    ops: dict[str, type[Op]] = field(default_factory=dict)
    passes: dict[str, type[Pass | ModelPass]] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    """The files of a package, by name; kernels bring their own."""
    pipelines: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def installed(cls, only: Collection[str] = ()) -> Registry:
        """All plugins that are installed, in a fixed order.

        With `only`, such as ("components",), just those of our own packages that have that name:
        quick, and enough for a spec that names nothing of a third party's.

        Raises `PluginError` where one cannot be imported, or two define the same name.
        """
        registry = cls()
        for entry in sorted(entry_points(group=GROUP), key=lambda e: e.value):
            if only and not (entry.value.startswith(OURS) and entry.name in only):
                continue
            try:
                package = entry.load()
                registry.add_package(package)
            except ArchsmithError:
                raise
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                raise PluginError(f"plugin {entry.name} ({entry.value}): {why}") from error
        return registry

    def add_package(self, package: ModuleType) -> None:
        """Add what the modules of a package define, and the data files beside them."""
        for module in _modules(package):
            for value in vars(module).values():
                if inspect.isclass(value) and value.__module__ == module.__name__:
                    self._add_class(value)
        beside = {module.__name__.rpartition(".")[2] for module in _modules(package)}
        for file in sorted(files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(".jinja"):
                name = file.name.removesuffix(".jinja")
                if name.partition(".")[0] not in beside:  # else a kernel's own
                    self._set(self.templates, "templates", name, file.read_text(encoding="utf-8"))
            elif file.name.endswith(".yaml"):
                tree = parse(file.read_text(encoding="utf-8"), file.name).tree
                if file.name == PIPELINES:
                    for name, passes in tree.items():
                        self._set(self.pipelines, "pipelines", name, tuple(passes))
                elif isinstance(tree, dict) and "describes" in tree:
                    name = file.name.removesuffix(".yaml")
                    self._set(self.targets, "targets", name, Target.of(name, tree))

    def _add_class(self, plugin: type) -> None:
        for base in plugin.__mro__[1:]:
            table, key = KINDS.get(f"{base.__module__}.{base.__qualname__}", ("", ""))
            name = getattr(plugin, key, None) if table else None
            if isinstance(name, str) and not inspect.isabstract(plugin):
                self._set(getattr(self, table), table, name, plugin)
                return

    def _set(self, table: dict[str, Any], what: str, name: str, plugin: Any) -> None:
        other = table.setdefault(name, plugin)
        if other is not plugin:
            both = f"{_origin(other)} and {_origin(plugin)}"
            raise PluginError(f"{_singular(what)} {name!r} is defined by both {both}")


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        if info.ispkg:
            continue
        yield importlib.import_module(f"{package.__name__}.{info.name}")


def _singular(table: str) -> str:
    return {"passes": "pass", "families": "family"}.get(table, table.removesuffix("s"))


def _origin(plugin: Any) -> str:
    return str(getattr(plugin, "__module__", type(plugin).__module__))
