"""What a model family is: tables that turn its Hugging Face configuration into a spec, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

from ..spec.diagnostics import Diagnostic, SpecError, accepted
from ..spec.relations import Relation
from ..spec.source import Source
from . import rope
from .field import Field, Fixed, Mark, Ratio, Same
from .reading import Reading
from .rope import RopeField

Tree = dict[str, Any]

DTYPES = {name: name for name in ("bfloat16", "float16", "float32", "float64")}
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
ACTIVATION = Field("hidden_act", "word", default="silu", unless="silu", words=ACTIVATIONS)
LAYERS = Field("num_hidden_layers", most=100_000)
TOP: Mapping[str, Field] = {
    "dtype": Field(
        "dtype", "word", default="float32", null="float32", words=DTYPES, aliases=("torch_dtype",)
    ),
    "vocab_size": Field("vocab_size"),
    "hidden_size": Field("hidden_size"),
    "max_positions": Field("max_position_embeddings"),
}
HEAD: Mapping[str, Field] = {"tied": Field("tie_word_embeddings", "flag", default=False)}

# Fields of any configuration that change nothing in what the model computes.
IGNORED = frozenset(
    [
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "model_type",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "tie_last_hidden_states",
        "tokenizer_class",
        "transformers_version",
        "use_cache",
    ]
)
ROPE = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})


@dataclass(frozen=True)
class With:
    """A constant that stands in the spec where the value of `field` does."""

    field: str
    value: object


class Family:
    """One Hugging Face `model_type`. A subclass with a `name` is a plugin; most of it is data.

    name       the `model_type`
    blocks     the spec's blocks, as the spec has them
    parts      the spec's parts; a `Field` stands for its value, so the table reads in both directions
    schedule   fields that `layers` reads beside the number of layers
    choices    fields that `settle` reads and that stand nowhere in the spec
    ignored    fields that change nothing, beside those of `IGNORED`
    fixed      fields that are understood at some of their values
    derived    fields that must be null or the sum of the fields named
    relations  what must hold between sizes, by the configuration's names
    tensors    role -> tensor name, with `{layer}` and `{expert}`
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
        layers = self.layers(reading.found) if reading.has(LAYERS, *self.schedule) else []
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
        tree |= _fill(TOP, values)
        tree["layers"] = [
            {"repeat": len(list(run)), "block": name} for name, run in groupby(layers)
        ]
        tree["blocks"] = {name: [dict(step) for step in steps] for name, steps in blocks.items()}
        tree["parts"] = {name: _fill(part, values) for name, part in parts.items()}
        tree |= {"final_norm": "rms", "head": _fill(HEAD, values), "checkpoint": self.name}
        _merge_parts(tree)
        return tree, reading.warnings + self.warnings(config)

    def describe(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration that `read` turns into `tree`: each field that it settles.

        Parts are recognized by their kind, so a hand-written spec is described as far as it has
        the family's form. The rotary embedding is in its normal form, as `rope_parameters`.
        """
        fields: dict[str, Any] = {}
        _recover(TOP, tree, fields)
        _recover(HEAD, tree.get("head", {}), fields)
        for name, template in self.parts.items():
            if part := _counterpart(name, template["kind"], tree):
                _recover(template, part, fields)
        self.unsettle(fields)
        layers = self._layers_of(tree)
        fields["num_hidden_layers"] = len(layers)
        if set(layers) <= self.blocks.keys():
            fields |= self.schedule_of(layers)
        return {"model_type": self.name} | fields

    def meaning(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the described fields that a checkpoint's tensors do not show by themselves."""
        visible = {"model_type", "dtype", "max_position_embeddings"}
        visible |= {field.name for field in self.schedule}
        return {name: x for name, x in self.describe(tree).items() if name not in visible}

    def defaults(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each described field would mean if a configuration lacked it."""
        rotary = [
            x for part in self.parts.values() for x in part.values() if isinstance(x, RopeField)
        ]
        default = {"rope_theta": rotary[0].theta, "rope_type": "default"}
        return {"rope_parameters": default} | self._otherwise(described, "default")

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
        mine = {_kinds(steps, self.parts): name for name, steps in self.blocks.items()}
        names = {
            name: mine.get(_kinds(steps, tree["parts"]), f"({name})")
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


def fields_of(template: Mapping[str, Any]) -> list[Field]:
    """Return the fields that stand in a part's table."""
    found: list[Field] = []
    for item in template.values():
        if isinstance(item, Field):
            found.append(item)
        elif isinstance(item, RopeField) and isinstance(item.interleaved, Field):
            found.append(item.interleaved)
        elif isinstance(item, Mapping):
            found += fields_of(item)
    return found


def _fill(template: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """Return a table with its fields replaced by their values."""
    result: Tree = {}
    standing = set()
    for key, item in template.items():
        if isinstance(item, Field):
            value = item.to_spec(values[item.name])
            if value == item.unless:
                continue
            result[key] = value
            standing.add(item.name)
        elif isinstance(item, With):
            if item.field in standing:
                result[key] = item.value
        elif isinstance(item, RopeField):
            way = item.interleaved
            way = values[way.name] if isinstance(way, Field) else way
            result[key] = rope.to_spec(values["rope_parameters"], way)
        else:
            result[key] = _fill(item, values) if isinstance(item, Mapping) else item
    return result


def _recover(template: Mapping[str, Any], part: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Add to `fields` what a part of a spec says of the fields in its table."""
    for key, item in template.items():
        if isinstance(item, Field):
            value = part.get(key, item.unless)
            if not isinstance(value, Mark) and item.has_word_for(value):
                fields[item.name] = item.from_spec(value)
        elif isinstance(item, RopeField) and key in part:
            fields["rope_parameters"] = rope.from_spec(part[key])
            if isinstance(item.interleaved, Field):
                fields[item.interleaved.name] = part[key]["interleaved"]
        elif isinstance(item, Mapping) and key in part:
            _recover(item, part[key], fields)


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
    return tuple(
        (key, parts[name]["kind"] if isinstance(name, str) else tuple(name))
        for step in steps
        for key, name in step.items()
    )


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
