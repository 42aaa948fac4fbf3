"""What a model family is: tables that turn its Hugging Face configuration into a spec, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

from ..spec.diagnostics import Diagnostic, SpecError, accepted
from ..spec.packed import Packed
from ..spec.relations import Relation
from ..spec.schema import Spec
from ..spec.source import Source
from .field import Field, Fixed, Mark, Ratio, Same
from .general import HEAD, IGNORED, LAYERS, ROPE, TOP
from .reading import Reading
from .rope import RopeField, neutral
from .table import Tree, fields_of, fill, recover, tree_of

LONGEST_CYCLE = 16  # layers after which a schedule may begin anew


class Family:
    """One Hugging Face `model_type`. A subclass with a `name` is a plugin; most of it is data.

    name       the `model_type`
    blocks     the spec's blocks, as the spec has them
    parts      the spec's parts; a `Field` stands for its value, so it reads in both directions
    schedule   fields that `layers` reads beside the number of layers
    choices    fields that `settle` reads and that stand nowhere in the spec
    ignored    fields that change nothing, beside those of `IGNORED`
    fixed      fields that are understood at some of their values
    derived    fields that must be null or the sum of the fields named
    relations  what must hold between sizes, by the configuration's names
    tensors    role -> tensor name, with `{layer}` and `{expert}`
    joined     tensor -> the tensors whose rows stand in it in its checkpoints, in this order
    packed     tensor, with `{expert}` -> where its checkpoints pack it for all experts
    droppable  patterns (fnmatch) of tensors that may be there unused; `{layers}` is their number
    """

    name: ClassVar[str]
    blocks: ClassVar[Mapping[str, Sequence[Mapping[str, str]]]]
    parts: ClassVar[Mapping[str, Mapping[str, Any]]]
    schedule: ClassVar[tuple[Field, ...]] = ()
    choices: ClassVar[tuple[Field, ...]] = ()
    ignored: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[Mapping[str, Fixed]] = {}
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    relations: ClassVar[tuple[Relation, ...]] = ()
    tensors: ClassVar[Mapping[str, str]]
    joined: ClassVar[Mapping[str, Sequence[str]]] = {}
    packed: ClassVar[Mapping[str, Packed]] = {}
    droppable: ClassVar[tuple[str, ...]] = ()

    def layers(self, values: Mapping[str, Any]) -> Sequence[str]:
        """Return the block of each layer."""
        return [next(iter(self.blocks))] * values["num_hidden_layers"]

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        """Return the values of `schedule` that give these layers."""
        return {}

    def settle(self, values: dict[str, Any]) -> None:
        """Rewrite the values of fields that mean something only together; some may be missing."""

    def unsettle(self, fields: dict[str, Any]) -> None:
        """Undo `settle` in a description."""

    def warnings(self, config: Source) -> list[Diagnostic]:
        """Return what a reader should know though the configuration is understood."""
        return []

    def read(
        self, config: Source | Mapping[str, object], name: str | None = None
    ) -> tuple[Tree, list[Diagnostic]]:
        """Return the spec of a configuration as plain dicts in the order of a page, and warnings.

        Raises SpecError with all mistakes: unknown, missing and ill-typed fields, values that are
        not modelled, sizes that do not fit each other.
        """
        if not isinstance(config, Source):
            config = Source("config.json", tree=config)
        reading = Reading(config)
        reading.names(self.known())
        reading.common(self.fixed, self.derived)
        reading.values([LAYERS, *TOP.values(), *HEAD.values(), *self.schedule])
        layers: Sequence[str] = []
        if reading.has(LAYERS, *self.schedule):
            layers = self.layers(reading.found)
            reading.layers(reading.found[LAYERS.name], self.schedule)
        blocks = {name: self.blocks[name] for name in self.blocks if name in set(layers)}
        parts = {name: self.parts[name] for name in self._used(blocks)}
        fields = list(self.choices)
        for part in parts.values():
            fields += fields_of(part)
        reading.values(fields)
        for part in parts.values():
            for item in part.values():
                if isinstance(item, RopeField):
                    reading.rope(item)
        self.settle(reading.found)
        reading.relations(self.relations, self.derived)
        if reading.problems:
            raise SpecError(config, reading.problems)

        values = reading.found
        tree: Tree = {"archsmith": 1, "name": name or self.name.replace("_", "-")}
        tree |= fill(TOP, values)
        tree["layers"] = _schedule(layers)
        tree["blocks"] = {name: [dict(step) for step in steps] for name, steps in blocks.items()}
        tree["parts"] = {name: fill(part, values) for name, part in parts.items()}
        tree |= {"final_norm": "rms", "head": fill(HEAD, values), "checkpoint": self.name}
        _merge_parts(tree)
        return tree, reading.warnings + self.warnings(config)

    def describe(self, tree: Mapping[str, Any] | Spec) -> dict[str, Any]:
        """Return the configuration that `read` turns into `tree`: each field that it settles.

        Parts are recognized by their kind, so a hand-written spec is described as far as it has
        the family's form. The rotary embedding is in its normal form, as `rope_parameters`.
        """
        tree = tree_of(tree) if isinstance(tree, Spec) else tree
        fields: dict[str, Any] = {}
        recover(TOP, tree, fields)
        recover(HEAD, tree.get("head", {}), fields)
        for name, template in self.parts.items():
            if part := _counterpart(name, template["kind"], tree):
                recover(template, part, fields)
        self.unsettle(fields)
        layers = self._layers_of(tree)
        fields["num_hidden_layers"] = len(layers)
        if set(layers) <= self.blocks.keys():
            fields |= self.schedule_of(layers)
        return {"model_type": self.name} | fields

    def meaning(self, tree: Mapping[str, Any] | Spec) -> dict[str, Any]:
        """Return the described fields that a checkpoint's tensors do not show by themselves."""
        visible = {"model_type", "dtype", "max_position_embeddings"}
        visible |= {field.name for field in self.schedule if field.type != "kinds"}
        return {name: x for name, x in self.describe(tree).items() if name not in visible}

    def defaults(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each described field would mean if a configuration lacked it.

        Under `rope_parameters` it is so for each field of these.
        """
        rotary = [
            x for part in self.parts.values() for x in part.values() if isinstance(x, RopeField)
        ]
        absent = self._otherwise(described, "default") | {"rope_theta": rotary[0].theta}
        if "rope_parameters" in described:
            absent["rope_parameters"] = neutral(described["rope_parameters"])
        return absent

    def nulls(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each described field that may be null would then mean."""
        return self._otherwise(described, "null")

    def aliases(self) -> dict[str, str]:
        """Return the other names under which configurations have a field."""
        return {alias: name for name, field in self.fields().items() for alias in field.aliases}

    def fields(self) -> dict[str, Field]:
        """Return every field that the spec depends on, by name."""
        listed = [LAYERS, *TOP.values(), *HEAD.values(), *self.schedule, *self.choices]
        for part in self.parts.values():
            listed += fields_of(part)
        return {field.name: field for field in listed}

    def known(self) -> frozenset[str]:
        """Return every field that a configuration of this family may have."""
        described = self.fields().keys() | self.aliases().keys()
        checked = self.fixed.keys() | self.derived.keys() | ROPE | {"quantization_config"}
        return IGNORED | self.ignored | described | checked

    def _used(self, blocks: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
        """Return the parts that these blocks name, and those that they name in turn."""
        used = {"rms"} | {
            name for steps in blocks.values() for step in steps for name in step.values()
        }
        for name in sorted(used):
            used |= {x for x in self.parts[name].values() if isinstance(x, str) and x in self.parts}
        return [name for name in self.parts if name in used]

    def _layers_of(self, tree: Mapping[str, Any]) -> list[str]:
        """Return the block of each layer by the family's names; an unlike block keeps its own."""
        alike = Counter(_kinds(steps, self.parts) for steps in self.blocks.values())

        def form(steps: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[Any, ...]:
            kinds = _kinds(steps, parts)
            return (kinds, _windows(steps, parts)) if alike[kinds] > 1 else (kinds,)

        mine = {form(steps, self.parts): name for name, steps in self.blocks.items()}
        names = {
            name: mine.get(form(steps, tree["parts"]), f"({name})")
            for name, steps in tree["blocks"].items()
        }
        layers = []
        for entry in tree["layers"]:
            cycle = [entry["block"]] if isinstance(entry["block"], str) else entry["block"]
            layers += [names[cycle[index % len(cycle)]] for index in range(entry["repeat"])]
        return layers

    def _otherwise(self, described: Mapping[str, Any], what: str) -> dict[str, Any]:
        result = {}
        for name, field in self.fields().items():
            value = getattr(field, what)
            if name not in described or isinstance(value, Mark):
                continue
            if field.type == "kinds" and value is None:
                layers = self.layers({**described, name: None})
                value = self.schedule_of(layers)[name]
            if isinstance(value, Same):
                value = described[value.of]
            elif isinstance(value, Ratio):
                value = described[value.of] // described[value.by]
            result[name] = value
        return result


def family_of(config: Source, families: Mapping[str, type[Family]]) -> Family:
    """Return the family that a configuration's `model_type` names. Raises SpecError."""
    name = config.tree.get("model_type")
    if isinstance(name, str) and name in families:
        return families[name]()
    message = "the configuration has no model_type" if name is None else "unsupported model_type"
    help = accepted(name, families, "supported are")
    raise SpecError(config, [Diagnostic("E0303", message, config.value(("model_type",)), help)])


def _schedule(layers: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a spec's `layers`: one where blocks alternate, else one a run."""
    runs = [{"repeat": len(list(run)), "block": name} for name, run in groupby(layers)]
    for period in range(2, min(len(layers) // 2, LONGEST_CYCLE) + 1):
        cycle = list(layers[:period])
        if len(runs) > 2 and all(name == cycle[i % period] for i, name in enumerate(layers)):
            return [{"repeat": len(layers), "block": cycle}]
    return runs


def _counterpart(name: str, kind: str, tree: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the tree's part that plays a table's role: by name, or as the only one of its kind."""
    parts: Mapping[str, Mapping[str, Any]] = tree["parts"]
    if name == "rms":
        name = tree["final_norm"]
    alike = [part for part in parts.values() if part["kind"] == kind]
    if name in parts and parts[name]["kind"] == kind:
        return parts[name]
    return alike[0] if len(alike) == 1 else None


def _kinds(steps: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a block is, whatever its parts are called."""
    named = _named(steps)
    return tuple((key, *(parts[name]["kind"] for name in names)) for key, names in named)


def _windows(steps: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[bool, ...]:
    """Return which parts of a block have a window."""
    return tuple("window" in parts[name] for _, names in _named(steps) for name in names)


def _named(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, Sequence[str]]]:
    """Return the parts that each key of a block's steps names."""
    return [
        (key, [names] if isinstance(names, str) else names)
        for step in steps
        for key, names in step.items()
        if key != "scale"
    ]


def _merge_parts(tree: Tree) -> None:
    """Let norms that turned out equal be one part, the first."""
    parts: dict[str, Tree] = tree["parts"]
    first: dict[str, str] = {}
    for name in [name for name, part in parts.items() if part["kind"] == "rms_norm"]:
        same = first.setdefault(repr(parts[name]), name)
        if same != name:
            del parts[name]
            for part in parts.values():
                part |= {key: same for key, value in part.items() if value == name}
