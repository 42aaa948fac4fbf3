"""Probes: the small sizes that stand for a spec's own, built so that every relation holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...errors import GraphError
from ...ir.dims import Dim
from ...spec.relations import AtMost, Equal, Even, Multiple, Relation, Small
from ...spec.schema import Spec

Size = tuple[str, int]  # a field and its value: the same in two parts, it is the same size


@dataclass
class _Rules:
    """What must hold of one size's probe."""

    even: bool = False
    small: bool = False
    multiple_of: list[tuple[Size, int]] = field(default_factory=list)  # and the least quotient
    at_least: list[tuple[Size, ...]] = field(default_factory=list)  # products


@dataclass(frozen=True)
class Probes:
    """The Dim of each size of a spec."""

    dims: Mapping[Size, Dim]

    @classmethod
    def of(cls, spec: Spec) -> Probes:
        """Draw a probe for every size.

        0 and 1 stand for themselves, and so does what a relation ties to a field of its own value.
        Every other size is the least multiple of what it must be a multiple of by a prime that no
        other size has: so two products of sizes have the same probe only where they have the same
        factors. Primes are given in the order of the spec, small ones first where much depends on
        a size.
        """
        rules, same = _collect(spec)
        probes: dict[Size, int] = {}
        primes = _primes()
        graph = {
            size: [of for of, _ in rule.multiple_of] + [s for p in rule.at_least for s in p]
            for size, rule in rules.items()
        }
        for size in _ordered(graph, [s for s in rules if rules[s].small or rules[s].multiple_of]):
            rule = rules[size]
            if size[1] in (0, 1):
                probes[size] = size[1]
                continue
            base = math.lcm(*(probes[of] for of, _ in rule.multiple_of), 2 if rule.even else 1)
            products = (math.prod(probes[s] for s in p) for p in rule.at_least)
            least = max(products, default=1)
            for of, quotient in rule.multiple_of:
                least = max(least, quotient * probes[of])
            factor = next(primes)
            while factor * base < least:
                factor = next(primes)
            probes[size] = factor * base
        dims = {size: Dim(size[1], probes[_root(same, size)]) for size in same}
        return cls(dims)

    def dim(self, field: str, value: int) -> Dim:
        """The Dim of a field with this value; `field` is dotted where it is nested."""
        if (field, value) not in self.dims:
            raise GraphError(f"{field} {value} is no size of the spec")
        return self.dims[field, value]


def _collect(spec: Spec) -> tuple[dict[Size, _Rules], dict[Size, Size]]:
    """The rules of every size, and which sizes are one."""
    same: dict[Size, Size] = {}
    found: list[tuple[Relation, dict[str, int]]] = []
    for part in spec.parts.values():
        values = part.sizes()
        same.update((item, item) for item in values.items() if item not in same)
        found += [(relation, values) for relation in part.constraints()]
    for item in (("hidden_size", spec.hidden_size), ("vocab_size", spec.vocab_size)):
        same.setdefault(item, item)
    for relation, values in found:
        match relation:
            case Multiple(one, other) | AtMost(one, other, None) | Equal(one, other):
                if values[one] == values[other] > 1:
                    first, second = (one, values[one]), (other, values[other])
                    same[_root(same, first)] = _root(same, second)
    rules: dict[Size, _Rules] = {_root(same, size): _Rules() for size in same}
    for relation, values in found:
        sizes = [_root(same, (name, values[name])) for name in relation.fields]
        rule = rules[sizes[0]]
        match relation:
            case Even():
                rule.even = True
            case Small():
                rule.small = True
            case Multiple(least=least) if sizes[0] != sizes[1]:
                rule.multiple_of.append((sizes[1], least))
            case AtMost(times=None) if sizes[0] != sizes[1]:
                rules[sizes[1]].at_least.append((sizes[0],))
            case AtMost(times=(_, _)):  # field <= bound * a / b: enough if field <= bound / b
                chosen, bound, a, b = sizes
                if chosen == bound:
                    continue  # all are used, and so are all groups
                if bound == b:
                    rules[a].at_least.append((chosen,))
                else:
                    rules[bound].at_least.append((chosen, b))
    return rules, same


def _root(same: Mapping[Size, Size], size: Size) -> Size:
    while same[size] != size:
        size = same[size]
    return size


def _ordered(graph: Mapping[Size, list[Size]], first: list[Size]) -> list[Size]:
    """Sizes after those that they depend on; `first` and what they need before all others."""
    order: dict[Size, None] = {}
    open_: set[Size] = set()

    def visit(size: Size) -> None:
        if size in order:
            return
        if size in open_:
            raise GraphError(f"the relations of {size[0]} {size[1]} run in a circle")
        open_.add(size)
        for other in graph[size]:
            visit(other)
        order[size] = None

    for size in [*first, *graph]:
        visit(size)
    return list(order)


def _primes() -> Iterator[int]:
    found: list[int] = []
    candidate = 2
    while True:
        if all(candidate % prime for prime in found):
            found.append(candidate)
            yield candidate
        candidate += 1
