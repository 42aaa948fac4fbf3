"""Plugins: packages named by the `archsmith.plugins` entry points, and what they define."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from importlib.resources import files
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import PluginError
from .machine.target import Target
from .origin import GROUP, OURS, Origin, origin
from .spec.source import parse

if TYPE_CHECKING:
    from .components.component import Component
    from .families.family import Family
    from .ir.op import Op
    from .machine.tuned import Table
    from .rewrite.passes import ModelPass, Pass
    from .schedule.kernel import Kernel

API = 1
"""Of what a plugin may use; a package that says another `ARCHSMITH_API` is not loaded."""
PIPELINES = "pipelines.yaml"

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
    tuned: dict[str, Table] = field(default_factory=dict)
    """Tables of measured tiles."""
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    """Table and name -> the module or file that defines it."""

    @classmethod
    def installed(cls, only: Collection[str] = ()) -> Registry:
        """All plugins that are installed, in a fixed order.

        With `only`, such as ("components",), just those of our own packages that have that name:
        quick, and enough for a spec that names nothing of a third party's.

        Raises `PluginError` where one cannot be imported, or two define the same name.
        """
        registry = cls()
        for entry in sorted(entry_points(group=GROUP), key=lambda e: e.value):
            if only and not (entry.value.startswith(f"{OURS}.") and entry.name in only):
                continue
            plugin = f"plugin {entry.name} of {Origin.of(entry) or 'no distribution'}"
            try:
                registry.add_package(_load(entry))
            except PluginError as error:
                raise PluginError(f"{plugin}: {error}") from error
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: importing ran a plugin's code
                why = f"{type(error).__name__}: {error}"
                raise PluginError(f"{plugin}: {entry.value} does not load: {why}") from error
        return registry

    @property
    def steps(self) -> tuple[str, ...]:
        """What may stand in a pipeline, by name: pipelines and passes."""
        return (*self.pipelines, *self.passes)

    def add_package(self, package: ModuleType) -> None:
        """Add what the modules of a package define, and the data files beside them.

        Raises `PluginError` where a name is taken, or a class is no plugin by an oversight.
        """
        modules = list(_modules(package))
        for module in modules:
            for value in vars(module).values():
                if inspect.isclass(value) and value.__module__ == module.__name__:
                    self._add_class(value)
        beside = {module.__name__.rpartition(".")[2] for module in modules}
        for file in sorted(files(package).iterdir(), key=lambda f: f.name):
            where = f"{package.__name__}/{file.name}"
            if file.name.endswith(".jinja"):
                name = file.name.removesuffix(".jinja")
                if name.partition(".")[0] not in beside:  # else a kernel's own
                    self._set("templates", name, file.read_text(encoding="utf-8"), where)
            elif file.name.endswith(".yaml"):
                source = parse(file.read_text(encoding="utf-8"), file.name)
                tree = source.tree
                if file.name == PIPELINES:
                    for name, steps in tree.items():
                        self._set("pipelines", name, _steps(name, steps, where), where)
                elif isinstance(tree, dict) and "describes" in tree:
                    name = file.name.removesuffix(".yaml")
                    self._set("targets", name, Target.of(name, tree), where)
                elif isinstance(tree, dict) and "tuned" in tree:
                    from .machine.tuned import Table  # here: few commands need one

                    self._set("tuned", file.name.removesuffix(".yaml"), Table.of(source), where)

    def _add_class(self, plugin: type) -> None:
        for base in plugin.__mro__[1:]:
            table, key = KINDS.get(f"{base.__module__}.{base.__qualname__}", ("", ""))
            if not table:
                continue
            name = getattr(plugin, key, None)
            if wrong := _oversight(plugin, table, key, name):
                raise PluginError(f"{plugin.__module__}.{plugin.__qualname__} {wrong}")
            if isinstance(name, str) and not inspect.isabstract(plugin):
                self._set(table, name, plugin, plugin.__module__)
                return

    def _set(self, table: str, name: str, plugin: Any, where: str) -> None:
        other = getattr(self, table).setdefault(name, plugin)
        first = self.origins.setdefault((table, name), where)
        if other is not plugin:
            both = f"{_from(first)} and {_from(where)}"
            raise PluginError(f"{_singular(table)} {name!r} is defined by both {both}")


def _load(entry: EntryPoint) -> ModuleType:
    """The package that an entry names."""
    package = entry.load()
    if not isinstance(package, ModuleType) or not hasattr(package, "__path__"):
        raise PluginError(
            f"{entry.value} is no package; an entry names the one that modules are in"
        )
    wants = getattr(package, "ARCHSMITH_API", API)
    if wants != API:
        ours = f"archsmith {version('archsmith')} offers {API}"
        raise PluginError(f"{entry.value} wants the API {wants!r} of archsmith, and {ours}")
    return package


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        if info.ispkg:
            continue
        yield importlib.import_module(f"{package.__name__}.{info.name}")


def _oversight(plugin: type, table: str, key: str, name: object) -> str | None:
    """Why a class that derives from a base of plugins is none, where nobody can have meant that."""
    what = _singular(table)
    missing = ", ".join(sorted(getattr(plugin, "__abstractmethods__", ())))
    if missing and key in vars(plugin) and isinstance(name, str) and ABC not in plugin.__bases__:
        return f"is called {name!r}, but is no {what} yet: it does not define {missing}"
    base = plugin.__name__.startswith("_") or bool(plugin.__subclasses__())
    if not missing and not base and not isinstance(name, str):
        return f"is a {what} without a `{key}`; one that others derive from begins with _"
    if table == "passes" and not missing and isinstance(name, str):
        from .rewrite.passes import mistaken  # here: checking a spec imports no graph

        return mistaken(plugin)
    return None


def _steps(name: object, steps: object, where: str) -> tuple[str, ...]:
    """The items of a pipeline, which may be other pipelines."""
    if isinstance(steps, list) and all(isinstance(step, str) for step in steps):
        return tuple(steps)
    raise PluginError(f"{where}: the pipeline {name!r} is no list of passes and pipelines")


def _singular(table: str) -> str:
    kinds = {"passes": "pass", "families": "family", "tuned": "table of tiles"}
    return kinds.get(table, table.removesuffix("s"))


def _from(where: str) -> str:
    """A module or file, and the distribution and entry point that it came by."""
    found = origin(where.partition("/")[0])
    return f"{where} ({found}, entry point {found.entry})" if found else where
