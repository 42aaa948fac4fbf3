"""What a model family is: tables that turn its Hugging Face configuration into a spec, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

from ..spec.diagnostics import Diagnostic, SpecError, accepted
from ..spec.packed import Packed
from ..spec.relations import Relation
from ..spec.schema import Spec
from ..spec.source import Source
from .blocks import kinds, named, runs, sights
from .field import Field, Fixed, Mark, Ratio, Same
from .general import FIXED, FULL, HEAD, IGNORED, LAYERS, ROPE, TOP
from .parts import counterpart, merge
from .reading import DRAFTS, Reading
from .rope import RopeField, neutral
from .scalings import ORIGINAL
from .table import Tree, fields_of, fill, recover, tree_of


class Family:
    """One Hugging Face `model_type`. A subclass with a `name` is a plugin; most of it is data.

    name       the `model_type`
    blocks     the spec's blocks, as the spec has them
    parts      the spec's parts; a `Field` stands for its value, so it reads in both directions
    head       the spec's head, likewise
    embed      the spec's embedding, likewise
    final_norm the part that is the norm before the head
    schedule   fields that `layers` reads beside the number of layers
    types      what `layer_types` calls a layer -> its block, where `schedule` has that field
    choices    fields that `settle` reads and that stand nowhere in the spec
    ignored    fields that change nothing, beside those of `IGNORED`
    fixed      fields that are understood at some of their values, beside those of `FIXED`
    derived    fields that must be null or the sum of the fields named
    relations  what must hold between sizes, by the configuration's names
    tensors    role -> tensor name, with `{layer}` and `{expert}`
    joined     tensor -> the tensors whose rows stand in it in its checkpoints, in this order
    packed     tensor, with `{expert}` -> where its checkpoints pack it for all experts
    mtp        the spec's `mtp`, where checkpoints have a layer that predicts one token further
    droppable  patterns (fnmatch) of tensors that may be there unused; `{layers}` is their number
    """

    name: ClassVar[str]
    blocks: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]]
    parts: ClassVar[Mapping[str, Mapping[str, Any]]]
    head: ClassVar[Mapping[str, Any]] = HEAD
    embed: ClassVar[Mapping[str, Any]] = {}
    final_norm: ClassVar[str] = "rms"
    schedule: ClassVar[tuple[Field, ...]] = ()
    types: ClassVar[Mapping[str, str]] = {}
    choices: ClassVar[tuple[Field, ...]] = ()
    ignored: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[Mapping[str, Fixed]] = {}
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    relations: ClassVar[tuple[Relation, ...]] = ()
    tensors: ClassVar[Mapping[str, str]]
    joined: ClassVar[Mapping[str, Sequence[str]]] = {}
    packed: ClassVar[Mapping[str, Packed]] = {}
    mtp: ClassVar[Mapping[str, str]] = {}
    droppable: ClassVar[tuple[str, ...]] = ()

    def layers(self, values: Mapping[str, Any]) -> Sequence[str]:
        """Return the block of each layer."""
        if not self.types:
            return [next(iter(self.blocks))] * values["num_hidden_layers"]
        listed = values["layer_types"]
        return [self.types[kind] for kind in (self.unlisted(values) if listed is None else listed)]

    def unlisted(self, values: Mapping[str, Any]) -> Sequence[str]:
        """Return what `layer_types` is where it is absent."""
        return [FULL] * int(values["num_hidden_layers"])

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        """Return the values of `schedule` that give these layers."""
        names = {block: kind for kind, block in self.types.items()}
        return {"layer_types": [names[block] for block in layers]} if names else {}

    def refusals(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Return which fields of `schedule` are wrong beside the others, and why."""
        return {}

    def settle(self, values: dict[str, Any]) -> None:
        """Rewrite the values of fields that mean something only together; some may be missing."""

    def unsettle(self, fields: dict[str, Any]) -> None:
        """Undo `settle` in a description."""

    def warnings(self, config: Source) -> list[Diagnostic]:
        """Return what a reader should know though the configuration is understood."""
        return []

    def read(
        self,
        config: Source | Mapping[str, object],
        name: str | None = None,
        *,
        mtp: bool = False,
    ) -> tuple[Tree, list[Diagnostic]]:
        """Return the spec of a configuration as plain dicts in the order of a page, and warnings.

        With `mtp`, the layer that predicts one token further is part of it. Raises SpecError with
        all mistakes: unknown, missing and ill-typed fields, values that are not modelled, sizes
        that do not fit each other.
        """
        if not isinstance(config, Source):
            config = Source("config.json", tree=config)
        reading = Reading(config)
        reading.names(self.known())
        reading.common(self._fixed(), self.derived)
        reading.storage(packed=bool(self.packed))
        reading.values([LAYERS, *TOP.values(), *self.schedule])
        layers: Sequence[str] = []
        if reading.has(LAYERS, *self.schedule):
            layers = self.layers(reading.found)
            reading.layers(reading.found[LAYERS.name], self.schedule)
            for field, why in self.refusals(reading.found).items():
                reading.problem((field,), "E0308", why)
        if mtp:
            reading.drafts(bool(self.mtp))
        used = {*layers, *[self.mtp.get("block")] * mtp}
        blocks = {name: self.blocks[name] for name in self.blocks if name in used}
        parts = {name: self.parts[name] for name in self._used(blocks)}
        fields = list(self.choices)
        for table in (self.head, self.embed, *parts.values(), *chain(*blocks.values())):
            fields += fields_of(table)
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
        tree["layers"] = runs(layers)
        tree["blocks"] = {
            name: [fill(step, values) for step in steps] for name, steps in blocks.items()
        }
        tree["parts"] = {name: fill(part, values) for name, part in parts.items()}
        tree |= {"final_norm": self.final_norm, "head": fill(self.head, values)}
        tree |= {"embed": fill(self.embed, values)} if self.embed else {}
        tree |= {"mtp": dict(self.mtp)} if mtp else {}
        tree["checkpoint"] = self.name
        merge(tree)
        return tree, reading.warnings + self.warnings(config)

    def describe(self, tree: Mapping[str, Any] | Spec) -> dict[str, Any]:
        """Return the configuration that `read` turns into `tree`: each field that it settles.

        Parts are recognized by their kind, so a hand-written spec is described as far as it has
        the family's form. The rotary embedding is in its normal form, as `rope_parameters`.
        """
        tree = tree_of(tree) if isinstance(tree, Spec) else tree
        fields: dict[str, Any] = {}
        recover(TOP, tree, fields)
        recover(self.head, tree.get("head", {}), fields)
        recover(self.embed, tree.get("embed") or {}, fields)
        for name, template in self.parts.items():
            name = tree["final_norm"] if name == self.final_norm else name
            if part := counterpart(name, template["kind"], tree):
                recover(template, part, fields)
        for theirs, mine in self._names_of(tree).items():
            for step, given in zip(self.blocks.get(mine, ()), tree["blocks"][theirs], strict=False):
                recover(step, given, fields)
        self.unsettle(fields)
        layers = self._layers_of(tree)
        fields["num_hidden_layers"] = len(layers)
        if set(layers) <= self.blocks.keys():
            fields |= self.schedule_of(layers)
        fields |= {DRAFTS[0]: 1} if tree.get("mtp") else {}
        return {"model_type": self.name} | fields

    def meaning(self, tree: Mapping[str, Any] | Spec) -> dict[str, Any]:
        """Return the described fields that a checkpoint's tensors do not show by themselves."""
        visible = {"model_type", "dtype", "max_position_embeddings", *DRAFTS}
        visible |= {field.name for field in self.schedule if not field.lists_layers}
        visible -= {field.name for field in self._standing()}
        return {name: x for name, x in self.describe(tree).items() if name not in visible}

    def defaults(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each described field would mean if a configuration lacked it.

        Under `rope_parameters` it is so for each field of these.
        """
        rotary = self._rotary()[0]
        absent = self._otherwise(described, "default") | {"rope_theta": rotary.theta}
        if rotary.original is not None:
            absent[ORIGINAL.name] = rotary.original
        if "rope_parameters" in described:
            absent["rope_parameters"] = neutral(described["rope_parameters"], rotary.part)
        return absent

    def nulls(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each described field that may be null would then mean."""
        return self._otherwise(described, "null")

    def sums(self, described: Mapping[str, Any]) -> dict[str, int]:
        """Return what `derived` fields are: readers that find none may not add up, but default."""
        terms = {name: [described.get(x, 0) or 0 for x in of] for name, of in self.derived.items()}
        return {name: sum(sizes) for name, sizes in terms.items()}

    def aliases(self) -> dict[str, str]:
        """Return the other names under which configurations have a field."""
        return {alias: name for name, field in self.fields().items() for alias in field.aliases}

    def fields(self) -> dict[str, Field]:
        """Return every field that the spec depends on, by name."""
        listed = [LAYERS, *TOP.values(), *self.schedule, *self.choices, *self._standing()]
        return {field.name: field for field in listed}

    def known(self) -> frozenset[str]:
        """Return every field that a configuration of this family may have."""
        described = self.fields().keys() | self.aliases().keys()
        checked = self._fixed().keys() | self.derived.keys() | ROPE | {"quantization_config"}
        checked |= {x for item in self._rotary() for x in item.beside()}
        return IGNORED | self.ignored | described | checked

    def _standing(self) -> list[Field]:
        tables = (self.head, self.embed, *self.parts.values(), *chain(*self.blocks.values()))
        return [field for table in tables for field in fields_of(table)]

    def _fixed(self) -> dict[str, Fixed]:
        read = {x for item in self._rotary() for x in item.beside()}
        return {name: rule for name, rule in FIXED.items() if name not in read} | dict(self.fixed)

    def _rotary(self) -> list[RopeField]:
        parts = self.parts.values()
        return [item for part in parts for item in part.values() if isinstance(item, RopeField)]

    def _used(self, blocks: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
        """Return the parts that these blocks name, and those that they name in turn."""
        used = {self.final_norm} | {
            name for steps in blocks.values() for _, names in named(steps) for name in names
        }
        for name in sorted(used):
            used |= {x for x in self.parts[name].values() if isinstance(x, str) and x in self.parts}
        return [name for name in self.parts if name in used]

    def _layers_of(self, tree: Mapping[str, Any]) -> list[str]:
        """Return the block of each layer by the family's names; an unlike block keeps its own."""
        names = self._names_of(tree)
        layers = []
        for entry in tree["layers"]:
            cycle = [entry["block"]] if isinstance(entry["block"], str) else entry["block"]
            layers += [names[cycle[index % len(cycle)]] for index in range(entry["repeat"])]
        return layers

    def _names_of(self, tree: Mapping[str, Any]) -> dict[str, str]:
        """Return what the family calls each block of a tree; an unlike block keeps its own name."""
        alike = Counter(kinds(steps, self.parts) for steps in self.blocks.values())

        def form(steps: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[Any, ...]:
            made = kinds(steps, parts)
            return (made, sights(steps, parts)) if alike[made] > 1 else (made,)

        mine = {form(steps, self.parts): name for name, steps in self.blocks.items()}
        return {
            name: mine.get(form(steps, tree["parts"]), f"({name})")
            for name, steps in tree["blocks"].items()
        }

    def _otherwise(self, described: Mapping[str, Any], what: str) -> dict[str, Any]:
        result = {}
        for name, field in self.fields().items():
            value = getattr(field, what)
            if name not in described or isinstance(value, Mark):
                continue
            if field.lists_layers and value is None:
                absent = {other.name: other.default for other in self.schedule}
                layers = self.layers({**absent, **described, name: None})
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
