"""The reading of one configuration: values and mistakes as they are found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..spec.diagnostics import Diagnostic, accepted, quoted
from ..spec.relations import Relation
from ..spec.source import Source
from . import rope, storage
from .field import Field, Fixed, Mark, Ratio, Same

DRAFTS = ("num_nextn_predict_layers", "num_mtp_layers")
"""What says, by either name, how many layers past the last predict further tokens."""


class Reading:
    """Gathers values in `found` and mistakes in `problems`; no mistake hides another."""

    def __init__(self, config: Source) -> None:
        self.config = config
        self.found: dict[str, Any] = {}
        self.seen: set[str] = set()
        self.problems: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []

    def problem(
        self, path: tuple[str, ...], code: str, message: str, help: str | None = None
    ) -> None:
        self.problems.append(Diagnostic(code, message, self.config.value(path), help))

    @property
    def fields(self) -> Mapping[str, Any]:
        """The configuration's fields, as they are written."""
        fields: Mapping[str, Any] = self.config.tree
        return fields

    def has(self, *fields: Field) -> bool:
        return all(field.name in self.found for field in fields)

    def names(self, known: frozenset[str]) -> None:
        """Refuse fields that the family does not know: one of them may change the meaning."""
        for name in self.fields:
            if name not in known:
                help = accepted(name, known, "fields") if _resembles(name, known) else None
                help = help or "a field that may change the meaning is not passed over"
                place = self.config.key((name,))
                self.problems.append(
                    Diagnostic("E0304", f"unknown field {quoted(name)}", place, help)
                )

    def common(self, fixed: Mapping[str, Fixed], derived: Mapping[str, tuple[str, ...]]) -> None:
        """Check what any configuration may say of its architecture and its dtype."""
        fields = self.fields
        for name, rule in fixed.items():
            value = fields.get(name)
            if value is not None and not any(_equal(value, x) for x in rule.accepted):
                message = f"{name} {quoted(value)} is not supported: {rule.otherwise}"
                listed = ", ".join(map(quoted, rule.accepted))
                help = f"supported: {listed}" if listed else "leave it out, or null"
                self.problem((name,), "E0307", message, help)
        made = fields.get("architectures")
        if made is not None and not _is_causal(made):
            message = f"architectures {quoted(made)} is not a language model's"
            self.problem(("architectures",), "E0307", message, "supported: `...ForCausalLM`")

    def storage(self, *, packed: bool) -> None:
        """Check how the weights beside this configuration are stored, experts `packed` or not."""
        name = "quantization_config"
        given = self.fields.get(name)
        if given is None:
            return
        if wrong := storage.refusal(given, packed=packed):
            field, message, help = wrong
            self.problem((name, field) if field else (name,), "E0307", message, help)
            return
        method = given["quant_method"]
        message = f"this checkpoint is stored in {method}: loading it dequantizes its weights"
        where = self.config.value((name,))
        self.warnings.append(Diagnostic("E0311", message, where, severity="warning"))

    def values(self, fields: Iterable[Field]) -> None:
        """Find the value of each field; those that follow from others last."""
        pending = {}
        for field in fields:
            if field.name in self.seen:
                continue
            self.seen.add(field.name)
            value = self._given(field)
            if isinstance(value, Same | Ratio):
                pending[field.name] = value
            elif not isinstance(value, Mark):
                self.found[field.name] = value
        for name, source in pending.items():
            self._follow(name, source)

    def rope(self, item: rope.RopeField) -> None:
        normal, problems = rope.normalize(self.fields, item)
        for found in problems:
            self.problem(found.path, found.code, found.message, found.help)
        self.found["rope_parameters"] = normal
        if rope.is_long(normal, self.fields):
            self._switch(normal["original_max_position_embeddings"])
        if "head_dim" in self.found:
            try:
                rope.rotated(normal, self.found["head_dim"])
            except ValueError as error:
                at = rope.PART.name if rope.PART.name in self.fields else "head_dim"
                self.problem((at,), "E0308", str(error), "pairs of columns are rotated")
                return
            for name, why in rope.misfits(normal, self.found["head_dim"]).items():
                self.problem((rope.place(self.fields), name), "E0308", why)

    def _switch(self, original: object) -> None:
        """Warn that the factors are those of long contexts in short ones too."""
        message = (
            f"long_factor is used at every length; by transformers, beyond {original} tokens only"
        )
        help = f"with `max_positions: {original}` a spec uses short_factor"
        place = self.config.value((rope.place(self.fields),))
        self.warnings.append(Diagnostic("E0312", message, place, help, "warning"))

    def relations(
        self, relations: Iterable[Relation], derived: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Check what must hold between sizes, as far as they are known."""
        for name, terms in derived.items():
            value, known = self.fields.get(name), [self.found.get(term) for term in terms]
            total = sum(size for size in known if size)
            if value is not None and None not in known and not _equal(value, total):
                message = f"{name} {quoted(value)} is not {' + '.join(terms)} ({total})"
                self.problem((name,), "E0308", message, "leave it out, or null")
        sizes = {name: x for name, x in self.found.items() if type(x) is int}
        wrong = set()
        for relation in relations:
            broken = relation.check(sizes)
            if broken and relation.field not in wrong:
                self.problem((relation.field,), "E0308", *broken)
                wrong.add(relation.field)

    def layers(self, count: int, schedule: Iterable[Field]) -> None:
        """Check that what is listed layer by layer is so for each of `count`."""
        for field in schedule:
            value = self.found.get(field.name)
            if field.lists_layers and value is not None and len(value) != count:
                message = f"{field.name} lists {len(value)} layers, there are {count}"
                self.problem((field.name,), "E0308", message)

    def drafts(self, known: bool) -> None:
        """Check that there is the one layer that predicts one token further, and is `known`."""
        if not known:
            message = "its layers that predict further tokens, if it has any, are not supported"
            self.problem(("model_type",), "E0307", message, "leave out `--mtp`")
            return
        name = next((name for name in DRAFTS if name in self.fields), None)
        count = self.fields[name] if name else 0
        if type(count) is not int or count != 1:
            message = f"{name or DRAFTS[0]} {quoted(count)} is not supported with `--mtp`"
            help = "supported: 1, a layer that predicts one token further; or leave out `--mtp`"
            self.problem((name,) if name else ("model_type",), "E0307", message, help)

    def _given(self, field: Field) -> object:
        """Return the value that stands in the file, or what its absence means; a Mark for none."""
        fields = self.fields
        names = [name for name in (field.name, *field.aliases) if name in fields]
        set_ = [name for name in names if fields[name] is not None]
        if not names:
            if field.default is Mark.REQUIRED:
                self.problem((), "E0305", f"the configuration lacks {quoted(field.name)}")
            return field.default
        name = (set_ or names)[0]
        value = fields[name]
        if value is None and field.null is not Mark.REFUSED:
            return field.null
        for other in set_[1:]:
            if not _equal(fields[other], value):
                message = f"{name} {quoted(value)} and {other} {quoted(fields[other])} disagree"
                self.problem((other,), "E0308", message, "leave one of them out")
        if why := field.refusal(value):
            self.problem((name,), "E0306", f"{name} must be {why}, not {quoted(value)}")
            return Mark.REFUSED
        return value

    def _follow(self, name: str, source: Same | Ratio) -> None:
        """Find a value that follows from others, where those are known."""
        value = self.found.get(source.of)
        divisor = self.found.get(source.by) if isinstance(source, Ratio) else 1
        if value is None or divisor is None:
            return
        if isinstance(source, Ratio) and value % divisor:
            message = f"{source.of} ({value}) is not a multiple of {source.by} ({divisor})"
            self.problem((source.of,), "E0308", message, f"or give {name}")
            return
        self.found[name] = value // divisor


def _equal(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _is_causal(architectures: object) -> bool:
    if not isinstance(architectures, list):
        return False
    return not architectures or any(str(name).endswith("ForCausalLM") for name in architectures)


def _resembles(name: str, known: frozenset[str]) -> bool:
    return accepted(name, known, "fields").startswith("did you mean")
