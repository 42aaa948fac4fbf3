"""The typed spec: what a page of YAML says, once it is known to be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, groupby, islice
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from .diagnostics import accepted, quoted
from .fields import (
    BlockName,
    Checkpoint,
    Item,
    Name,
    NewBlockName,
    NormName,
    OneOrMore,
    PartName,
    Positive,
    Scope,
    Several,
    Size,
    SizeMark,
    mistake,
)
from .relations import Relation, When, in_force

MAX_LAYERS = 100_000


class Fields(BaseModel):
    """A map of a spec: every key is a field, described by a phrase that completes "x is ..."."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _remember(cls, data: object, info: ValidationInfo) -> object:
        """Let a mistake in `data` be explained by the fields that it could have."""
        if isinstance(info.context, Scope) and isinstance(data, dict):
            info.context.models.setdefault(id(data), cls)
        return data


class Part(Fields):
    """What a spec names and its blocks use; a component is a part that can be built."""

    kind: ClassVar[str]
    is_norm: ClassVar[bool] = False
    relations: ClassVar[tuple[Relation | When, ...]] = ()

    def sizes(self) -> dict[str, int]:
        """Return the fields that are sizes and are given, dotted where they are nested."""
        return dict(_sizes(self, ""))

    def constraints(self) -> tuple[Relation, ...]:
        """Return the relations that say something of this part's sizes."""
        return in_force(self.relations, flat(type(self), self.model_dump()))


class Layer(Fields):
    """An entry of the schedule."""

    repeat: Annotated[int, Field(ge=1, le=MAX_LAYERS)] = Field(
        description="how many layers the entry stands for"
    )
    block: OneOrMore[BlockName] = Field(
        description="the block that each layer is, or several that alternate"
    )


class Step(Fields):
    """A residual step: x = x + scale * post_norm(use(norm(x)))."""

    norm: NormName | None = Field(None, description="the norm before")
    use: OneOrMore[PartName] = Field(
        description="the part that is used, or several in parallel whose results are summed"
    )
    post_norm: NormName | None = Field(None, description="the norm after, before the sum")
    scale: Positive | None = Field(None, description="the factor on what is added")


class Head(Fields):
    """The projection to the vocabulary."""

    tied: bool = Field(description="whether the head's weight is the embedding's")
    bias: bool = Field(False, description="whether logits have a bias")
    scale: Positive | None = Field(None, description="the factor on logits")
    softcap: Positive | None = Field(
        None, description="the bound c of logits, as c * tanh(logits / c)"
    )


class Embed(Fields):
    """The embedding of tokens."""

    scale: Positive | None = Field(None, description="the factor on embedded tokens")
    stored: bool = Field(
        False, description="whether that factor is rounded to the dtype of weights, as one of them"
    )


class Draft(Fields):
    """A layer past the last, that predicts one token further (Multi-Token Prediction)."""

    block: BlockName = Field(description="the block that the layer is")
    norm: NormName = Field(
        description="the norm of what the layer takes, twice, and of what it gives"
    )


def _part(value: object, info: ValidationInfo) -> object:
    """Return the part that a map describes, by the kinds at hand."""
    scope = info.context
    if isinstance(value, Part) or not isinstance(value, dict) or not isinstance(scope, Scope):
        return value
    if "kind" not in value:
        help = accepted(None, scope.kinds, "kinds")
        raise mistake("E0202", "the part lacks `kind`", help)
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in scope.kinds:
        help = accepted(kind, scope.kinds, "kinds")
        raise mistake("E0208", f"unknown kind {quoted(kind)}", help, at="kind")
    model = scope.kinds[kind]
    scope.models[id(value)] = model
    fields = {name: x for name, x in value.items() if name != "kind"}
    return model.model_validate(fields, context=scope)


def _few(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    count = sum(layer.repeat for layer in layers)
    if count > MAX_LAYERS:
        raise mistake("E0204", f"{count} layers are too many", f"at most {MAX_LAYERS}")
    return layers


class Spec(Fields):
    """An architecture."""

    archsmith: Annotated[int, Field(ge=1, le=1)] = Field(description="the version of this format")
    name: Name = Field(description="what the architecture is called")
    dtype: Literal["bfloat16", "float16", "float32", "float64"] = Field(
        description="the type of weights and activations"
    )
    vocab_size: Size = Field(description="how many tokens there are")
    hidden_size: Size = Field(description="the width of the residual stream")
    max_positions: Size = Field(description="how many tokens a context may have")
    layers: Annotated[Several[Layer], AfterValidator(_few)] = Field(
        description="the schedule, top to bottom"
    )
    blocks: Mapping[NewBlockName, Several[Step]] = Field(
        min_length=1, description="the blocks by name: each a list of residual steps"
    )
    parts: Mapping[Name, Annotated[SerializeAsAny[Part], BeforeValidator(_part)]] = Field(
        description="the parts by name, each of some kind"
    )
    final_norm: NormName = Field(description="the norm before the head")
    head: Head = Field(description="the projection to the vocabulary")
    embed: Embed | None = Field(None, description="the embedding of tokens")
    mtp: Draft | None = Field(None, description="the layer that predicts one token further")
    checkpoint: Checkpoint | None = Field(
        None, description="the model family whose tensor names the weights have"
    )
    pipeline: Several[Item] | None = Field(
        None, description="the passes and pipelines, by name and in order"
    )

    def part(self, name: str) -> Part:
        """Return the part of that name."""
        return self.parts[name]

    @property
    def layer_count(self) -> int:
        """The number of layers."""
        return sum(layer.repeat for layer in self.layers)

    @property
    def schedule(self) -> tuple[tuple[str, int], ...]:
        """The blocks from first to last, each with how often it is repeated in a row."""
        return tuple((name, sum(counts)) for name, counts in _runs(self.layers))


def _runs(layers: tuple[Layer, ...]) -> Iterator[tuple[str, Iterator[int]]]:
    entries = (
        entry
        for layer in layers
        for entry in (
            [(layer.block[0], layer.repeat)]
            if len(layer.block) == 1
            else ((name, 1) for name in islice(cycle(layer.block), layer.repeat))
        )
    )
    for name, run in groupby(entries, key=lambda entry: entry[0]):
        yield name, (count for _, count in run)


def flat(model: type[BaseModel], given: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Return the fields of a part as given or by default, dotted where they are nested."""
    values: dict[str, object] = {}
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        value = given.get(name, default)
        values[prefix + name] = value
        inner = _model(field)
        if inner is not None and isinstance(value, BaseModel):
            value = value.model_dump()
        if inner is not None and isinstance(value, Mapping):
            values |= flat(inner, value, f"{prefix}{name}.")
    return values


def _sizes(model: BaseModel, prefix: str) -> Iterator[tuple[str, int]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _sizes(value, f"{prefix}{name}.")
        elif isinstance(value, int) and _is_size(field):
            yield prefix + name, value


def _is_size(field: FieldInfo) -> bool:
    """Tell whether a field is a Size or a Count, or perhaps none."""
    marks = [
        *field.metadata,
        *(mark for arg in get_args(field.annotation) for mark in get_args(arg)),
    ]
    return any(isinstance(mark, SizeMark) for mark in marks)


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the one model that a field holds, or perhaps none; None for other fields."""
    choices = [field.annotation, *get_args(field.annotation)]
    models = [c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)]
    return models[0] if len(models) == 1 else None
