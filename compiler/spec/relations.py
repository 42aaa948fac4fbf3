"""What must hold between the sizes of a part: checked in a spec, and obeyed by probes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

Broken: TypeAlias = tuple[str, str]
"""What is wrong, and what would be accepted."""


class Relation(Protocol):
    """A rule on the integers of a part; nested fields are dotted (`router.groups`).

    A relation is vacuous where one of its fields is absent.
    """

    code: ClassVar[str]

    @property
    def field(self) -> str:
        """The field that a mistake is shown at."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that it speaks of, `field` first."""

    def check(self, values: Mapping[str, int]) -> Broken | None:
        """Return why the values break it, or None."""


@dataclass(frozen=True)
class Multiple:
    """`field` is `of` times an integer of at least `least`."""

    field: str
    of: str
    least: int = 1
    code: ClassVar[str] = "E0211"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field, self.of)

    def check(self, values: Mapping[str, int]) -> Broken | None:
        if not present(self, values):
            return None
        size, of = values[self.field], values[self.of]
        below, above = size // of * of, (size // of + 1) * of
        if size % of:
            choices = [n for n in (below, above) if n >= self.least * of] or [self.least * of]
            near = " or ".join(map(str, choices))
            return (
                f"{self.field} ({size}) is not a multiple of {self.of} ({of})",
                f"{near} would do",
            )
        if size < self.least * of:
            message = f"{self.field} ({size}) is less than {self.least} times {self.of} ({of})"
            return message, f"at least {self.least * of} here"
        return None


@dataclass(frozen=True)
class AtMost:
    """`field <= bound`; with `times = (a, b)`, `field <= bound * a // b`."""

    field: str
    bound: str
    times: tuple[str, str] | None = None
    code: ClassVar[str] = "E0210"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field, self.bound, *(self.times or ()))

    def check(self, values: Mapping[str, int]) -> Broken | None:
        if not present(self, values):
            return None
        size, limit, name = values[self.field], values[self.bound], self.bound
        if self.times is not None:
            a, b = self.times
            limit, name = limit * values[a] // values[b], f"{name} * {a} / {b}"
        if size <= limit:
            return None
        return f"{self.field} ({size}) exceeds {name} ({limit})", f"at most {limit} here"


@dataclass(frozen=True)
class Even:
    """`field` is a multiple of two."""

    field: str
    code: ClassVar[str] = "E0212"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def check(self, values: Mapping[str, int]) -> Broken | None:
        if not present(self, values) or values[self.field] % 2 == 0:
            return None
        size = values[self.field]
        return f"{self.field} ({size}) is odd", f"rotated in pairs; {size + 1} would do"


@dataclass(frozen=True)
class Equal:
    """`field` is another name for `other`."""

    field: str
    other: str
    code: ClassVar[str] = "E0213"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field, self.other)

    def check(self, values: Mapping[str, int]) -> Broken | None:
        if not present(self, values) or values[self.field] == values[self.other]:
            return None
        size, other = values[self.field], values[self.other]
        return f"{self.field} ({size}) is not {self.other} ({other})", f"leave it out, or {other}"


@dataclass(frozen=True)
class Small:
    """Nothing is asked of `field`, but much is computed for each of it: its probe is small."""

    field: str
    code: ClassVar[str] = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def check(self, values: Mapping[str, int]) -> Broken | None:
        return None


@dataclass(frozen=True)
class When:
    """`relation`, where the field `given` is there and has the value `equals` (None: any).

    Where `missing` is there, the relation does not hold.
    """

    relation: Multiple | AtMost | Even | Equal
    given: str
    equals: str | None = None
    missing: str | None = None

    def holds(self, values: Mapping[str, object]) -> bool:
        """Tell whether the relation is in force for a part of these fields."""
        if values.get(self.given) is None or values.get(self.missing or "") is not None:
            return False
        return self.equals is None or values[self.given] == self.equals


def present(relation: Relation, values: Mapping[str, int]) -> bool:
    """Tell whether a relation says something of `values`: its fields are there, and above zero."""
    return all(values.get(name, 0) > 0 for name in relation.fields)


def in_force(
    relations: Iterable[Relation | When], values: Mapping[str, object]
) -> tuple[Relation, ...]:
    """Return the relations whose condition holds and whose fields are all there.

    `values` maps every field of a part, dotted where nested, to what it holds, None where absent.
    """
    holding = (
        relation.relation if isinstance(relation, When) else relation
        for relation in relations
        if not isinstance(relation, When) or relation.holds(values)
    )
    return tuple(r for r in holding if all(type(values.get(name)) is int for name in r.fields))
