"""The stages in order: load, build, rewrite, schedule, emit; each is one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .components.building.assemble import ROLES, assemble
from .emit.aot import Compiled, account, compile_package
from .emit.export import Call, Exported, lower
from .emit.judge import CheckpointJudge
from .emit.package import NO_CHECKPOINT, Facts, emit
from .emit.prove import PackageProof, method, prove_package
from .emit.write import changes, check_name, write
from .errors import ArchsmithError, EnvironmentMissing
from .families.config import read_config
from .families.family import Family
from .families.page import name_of, page
from .families.table import tree_of
from .ir.count import cache_bytes, parameters
from .ir.model import Model
from .machine.target import Target
from .machine.tuned import Table, merged
from .plugins import Registry
from .report import SEED, Report
from .reproducer import reproduce
from .rewrite.order import DEFAULT, resolve
from .rewrite.passes import AnyPass
from .rewrite.pipeline import Judge, Outcome, PassFailed, Runner
from .schedule.plan import Plan, stale
from .schedule.select import select
from .spec.diagnostics import accepted, quoted, render
from .spec.load import load
from .spec.schema import Spec
from .spec.source import read


@dataclass(frozen=True)
class Compiler:
    """The stages, with the plugins and the target that they work with."""

    registry: Registry
    target: Target
    numeric: bool = True
    """Prove every application of a pass by its numbers, not by its structure alone."""
    watch: Callable[[str], None] = field(default=lambda doing: None)
    """Called with what is done next."""
    tuned: Table | None = None
    """Measured tiles of the user's, before those that are installed."""

    @classmethod
    def installed(
        cls,
        target: str = "cpu",
        watch: Callable[[str], None] = lambda doing: None,
        *,
        numeric: bool = True,
        tuned: Path | None = None,
    ) -> Compiler:
        """With all that is installed, and a file of measured tiles; raises `ArchsmithError` for a
        target that is not, or that the tiles are not of, and `SpecError` for what is no table."""
        registry = Registry.installed()
        if target not in registry.targets:
            help = accepted(target, registry.targets, "targets")
            raise ArchsmithError(f"there is no target {quoted(target)}\n  = help: {help}")
        table = None if tuned is None else Table.of(read(tuned))
        if table is not None and table.target != target:
            raise ArchsmithError(
                f"--tuned {tuned} was measured for {table.target}, not for {target}\n"
                f"  = help: leave it out, or build with --target {table.target}"
            )
        return cls(registry, registry.targets[target], numeric, watch, table)

    def passes(self, what: str | Sequence[str] | None) -> tuple[str, list[AnyPass]]:
        """A pipeline's name and its passes: from a name, a list, a YAML file of one, or None."""
        if isinstance(what, str) and what.endswith((".yaml", ".yml")):
            tree = read(what).tree
            if not isinstance(tree, list) or not all(isinstance(item, str) for item in tree):
                raise ArchsmithError(f"{what} is no list of passes")
            what = tuple(tree)
        what = DEFAULT if what is None else what
        chosen = resolve(what, self.registry.passes, self.registry.pipelines)
        return what if isinstance(what, str) else ",".join(what), chosen

    def load(self, path: Path) -> Spec:
        """Read a spec; raises `SpecError` with all its mistakes."""
        registry = self.registry
        return load(path, registry.components, registry.families, registry.steps)

    def read_configuration(
        self, path: Path, name: str | None, *, mtp: bool = False
    ) -> tuple[str, str]:
        """A Hugging Face configuration, or a folder with one, as a spec; and its warnings."""
        config = read_config(path)
        families = self.registry.families
        text, warnings = page(config, families, name or name_of(path), mtp=mtp)
        return text, render(config, warnings)

    def build(self, spec: Spec) -> Model:
        """The graph of a spec, before any pass."""
        family = self._family(spec)
        tensors = family.tensors if family else {}
        droppable = family.droppable if family else ()
        joined = family.joined if family else {}
        packed = family.packed if family else {}
        return assemble(spec, self.registry.ops, tensors, droppable, joined, packed)

    def runner(self, numeric: bool) -> Runner:
        """What runs passes, and proves them by numbers or by structure alone."""
        return Runner(
            self.registry.ops,
            self.target,
            SEED,
            numeric,
            watch=lambda name: self.watch(f"pass {name}"),
        )

    def rewrite(
        self, model: Model, passes: Sequence[AnyPass], judge: Judge | None = None
    ) -> tuple[Model, list[Outcome]]:
        """The model after passes, each proved; one that fails leaves a reproducer behind."""
        runner = replace(self.runner(self.numeric), judge=judge)
        try:
            return runner.run(model, passes)
        except PassFailed as failed:
            command = reproduce(failed, self.target.name, runner)
            failed.add_note(f"`{command}` repeats it")
            raise

    def schedule(self, model: Model) -> Plan:
        shipped = [self.registry.tuned[name] for name in sorted(self.registry.tuned)]
        tables = shipped if self.tuned is None else [*shipped, self.tuned]
        tiles = merged(tables, self.target.name)
        return select(model, self.registry.kernels, self.target, tuned=tiles)

    def prove(self, spec: Spec, model: Model, outcomes: Sequence[Outcome]) -> PackageProof:
        """Compare the package of a model with it; raises `ProofError`, `EnvironmentMissing`."""
        facts = self._facts(spec, "", outcomes)
        return prove_package(self.schedule(model), self.registry.templates, facts, SEED)

    def judge(self, spec: Spec, weights: Path) -> Judge:
        """What measures losses on a checkpoint; raises `ArchsmithError` where there is none."""
        if not weights.is_dir():
            raise ArchsmithError(f"--weights {weights} is no folder with a checkpoint")
        facts = self._facts(spec, "", [])
        return CheckpointJudge(self.schedule, self.registry.templates, facts, weights, SEED)

    def package(
        self,
        spec: Spec,
        folder: Path,
        pipeline: str,
        passes: Sequence[AnyPass],
        *,
        prove: bool = True,
        aot: bool = False,
        force: bool = False,
        dry_run: bool = False,
        weights: Path | None = None,
    ) -> Report:
        """From a spec to a package in `folder`; nothing is written unless all is proved.

        With `aot`, its kernels are compiled, and the package holds a report of them; on `weights`,
        a checkpoint's folder, is measured what lossy passes lose.
        """
        if folder.name in ("", "..") or folder.is_symlink():
            folder = folder.resolve()
        check_name(folder)
        self.watch("graph")
        judge = None if weights is None else self.judge(spec, weights)
        model, outcomes = self.rewrite(self.build(spec), passes, judge)
        plan = self.schedule(model)
        facts = self._facts(spec, pipeline, outcomes)
        proof, unproved = None, "asked not to"
        if prove:
            self.watch("proof of the package")
            try:
                proof = prove_package(plan, self.registry.templates, facts, SEED)
                unproved = ""
            except EnvironmentMissing as missing:
                unproved = str(missing)
        facts = self._facts(spec, pipeline, outcomes, proved=proof is not None)
        compiled: list[Compiled] = []
        if aot:
            self.watch("kernels, compiled ahead of time")
            compiled = compile_package(plan, self.registry.templates, facts)
        self.watch("files")
        files = emit(
            plan, self.registry.templates, facts, aot=account(plan, compiled) if aot else None
        )
        done = changes(folder, files) if dry_run else write(folder, files, force=force)
        return Report(
            folder,
            done,
            self.target.name,
            pipeline,
            parameters(model),
            cache_bytes(model),
            outcomes,
            proof,
            unproved,
            compiled,
            stale(plan),
        )

    def export(
        self,
        spec: Spec,
        pipeline: str,
        passes: Sequence[AnyPass],
        call: Call,
        *,
        prove: bool = True,
    ) -> Exported:
        """From a spec to the prefill of its package, lowered for other compilers."""
        self.watch("graph")
        model, outcomes = self.rewrite(self.build(spec), passes)
        plan = self.schedule(model)
        facts = self._facts(spec, pipeline, outcomes)
        if prove:
            self.watch("proof of the package")
            prove_package(plan, self.registry.templates, facts, SEED)
        self.watch(f"{self.target.name} of the package")
        return lower(plan, self.registry.templates, facts, call)

    def _facts(
        self, spec: Spec, pipeline: str, outcomes: Sequence[Outcome], proved: bool = False
    ) -> Facts:
        certificate = {
            "passes": [outcome.certificate(SEED) for outcome in outcomes],
            "package": {**method(), "seed": SEED} if proved else None,
        }
        return Facts(
            version("archsmith"),
            spec.vocab_size,
            spec.hidden_size,
            spec.max_positions,
            self.target.name,
            pipeline,
            certificate,
            self._checkpoint(spec),
            self._copies(spec) | self._repeated(spec),
            tuple(self._repeated(spec)),
        )

    def _family(self, spec: Spec) -> Family | None:
        family = self.registry.families.get(spec.checkpoint or "")
        return family() if family else None

    def _checkpoint(self, spec: Spec) -> Mapping[str, Any]:
        """What a checkpoint's configuration must say, as far as the spec's family has words."""
        family = self._family(spec)
        if family is None:
            return NO_CHECKPOINT
        tree = tree_of(spec)
        described = family.describe(tree)
        fields = family.meaning(tree)
        return {
            "family": family.name,
            "fields": fields,
            "others": {
                name: x
                for name, x in {**described, **family.sums(described)}.items()
                if name not in fields
            },
            "absent": family.defaults(described),
            "null": family.nulls(described),
            "aliases": {name: [alias] for alias, name in family.aliases().items()},
        }

    def _copies(self, spec: Spec) -> dict[str, str]:
        """A tied head may be in a checkpoint too, if it is the embedding."""
        names = self._names(spec)
        return {names["head"]: names["embed"]} if spec.head.tied else {}

    def _repeated(self, spec: Spec) -> dict[str, str]:
        """The embedding and the head that the layer of a draft has in checkpoints."""
        if spec.mtp is None:
            return {}
        names, layer = self._names(spec), str(spec.layer_count)
        held = {"embed": "embed", "head": "embed" if spec.head.tied else "head"}
        return {
            names[f"draft.{role}"].replace("{layer}", layer): names[of] for role, of in held.items()
        }

    def _names(self, spec: Spec) -> dict[str, str]:
        family = self._family(spec)
        return {**ROLES, **(family.tensors if family else {})}
