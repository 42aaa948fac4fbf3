"""The tokens of one line of the text form, and what they make: types, attributes, programs."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import GraphError
from .computed import Rotate, Scale, Times
from .dims import Dim
from .pick import Pick
from .quantized import BlockScales, Quantize
from .types import TensorType
from .weights import Concat, Each, Flatten, Program, Ref, Slice, Stack, Transpose, Unflatten

_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<value>%[a-z_][a-z0-9_]*)'
    r"|(?P<number>-?(?:inf|nan|\d+(?:\.\d*)?(?:e[-+]?\d+)?)(?:~\d+)?(?![A-Za-z_]))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)|(?P<mark>[()\[\],=*:]))",
    re.ASCII,
)
_WHOLE = re.compile(r"-?[0-9]{1,18}")


@dataclass
class Tokens:
    """The tokens of one line, taken from the left."""

    text: str
    at: int = 0

    def _peek(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.at)

    @property
    def kind(self) -> str:
        match = self._peek()
        return str(match.lastgroup) if match else ""

    def _next(self, kind: str, what: str) -> str:
        match = self._peek()
        if match is None or match.lastgroup != kind:
            raise GraphError(f"expected {what} at {self.text[self.at :].strip()[:40]!r}")
        self.at = match.end()
        return match[kind]

    def word(self) -> str:
        return self._next("word", "a word")

    def value(self) -> str:
        return self._next("value", "a value such as %x")[1:]

    def number(self) -> str:
        return self._next("number", "a number")

    def integer(self) -> int:
        number = self.number()
        if not _WHOLE.fullmatch(number):
            raise GraphError(f"{number} is no integer")
        return int(number)

    def real(self) -> float:
        number = self.number()
        if "~" in number:
            raise GraphError(f"{number} counts nothing, so it has no probe")
        return float(number)

    def string(self) -> str:
        text = self._next("string", "a string in quotes")
        try:
            return str(json.loads(text))
        except ValueError:
            raise GraphError(f"{text} is no string of JSON") from None

    def take(self, mark: str) -> None:
        if not self.skip(mark):
            raise GraphError(f"expected {mark!r} at {self.text[self.at :].strip()[:40]!r}")

    def skip(self, mark: str) -> bool:
        match = self._peek()
        if match is None or match["mark"] != mark:
            return False
        self.at = match.end()
        return True

    def end(self) -> None:
        if self.text[self.at :].strip():
            raise GraphError(f"ends before {self.text[self.at :].strip()[:40]!r}")

    def type(self) -> TensorType:
        end = self.text.find("]", self.at) + 1 or len(self.text)
        type = TensorType.parse(self.text[self.at : end])
        self.at = end
        return type

    def dim(self) -> Dim:
        return Dim.parse(self.number())

    def tuple_of(self, item: Callable[[], Any], close: str = ")") -> tuple[Any, ...]:
        self.take("(" if close == ")" else "[")
        items = []
        while not self.skip(close):
            items.append(item())
            self.skip(",")
        return tuple(items)

    def attribute(self, dims: bool) -> Any:
        """One attribute; whole numbers are Dims where the op's field holds Dims."""
        if self.kind == "string":
            return self.string()
        if self.kind == "word":
            word = self.word()
            if word not in ("true", "false", "null"):
                raise GraphError(f"{word!r} is no attribute; strings stand in quotes")
            return json.loads(word)
        if self.kind == "mark":
            return self.tuple_of(lambda: self.attribute(dims))
        number = self.number()
        if dims:
            return Dim.parse(number)
        if "~" in number:
            raise GraphError(f"{number} counts nothing, so it has no probe")
        return int(number) if _WHOLE.fullmatch(number) else float(number)

    def program(self) -> Program:
        kind = self.word()
        if kind not in _PROGRAMS:
            raise GraphError(f"there is no weight program {kind}; there are {', '.join(_PROGRAMS)}")
        self.take("(")
        program = _PROGRAMS[kind](self)
        self.take(")")
        return program

    def then(self, item: Callable[[], Any]) -> Any:
        self.take(",")
        return item()


_PROGRAMS: dict[str, Callable[[Tokens], Program]] = {
    "ref": lambda t: Ref(t.string(), t.then(lambda: t.tuple_of(t.dim))),
    "each": lambda t: Each(t.program(), t.then(t.word), t.then(t.dim)),
    "stack": lambda t: Stack(t.program(), t.then(t.word), t.then(t.dim)),
    "pick": lambda t: Pick(t.program(), t.then(t.word)),
    "concat": lambda t: Concat(t.tuple_of(t.program, "]"), t.then(t.integer)),
    "slice": lambda t: Slice(t.program(), t.then(t.integer), t.then(t.dim), t.then(t.dim)),
    "unflatten": lambda t: Unflatten(
        t.program(), t.then(t.integer), t.then(lambda: t.tuple_of(t.dim))
    ),
    "flatten": lambda t: Flatten(t.program(), t.then(t.integer)),
    "transpose": lambda t: Transpose(t.program(), t.then(lambda: t.tuple_of(t.integer))),
    "scale": lambda t: Scale(
        t.program(), t.then(t.integer), t.then(t.program), t.real() if t.skip(",") else 0.0
    ),
    "times": lambda t: Times(t.program(), t.then(t.real)),
    "rotate": lambda t: Rotate(t.program(), t.then(t.integer)),
    "quantize": lambda t: Quantize(t.program(), t.then(t.string), t.then(t.dim)),
    "block_scales": lambda t: BlockScales(t.program(), t.then(t.string), t.then(t.dim)),
}


def required(field: Any) -> bool:
    """Whether an attribute must be given."""
    return bool(field.default is dataclasses.MISSING)


def fits(value: Any, hint: Any) -> bool:
    """Whether an attribute's value is of its declared type; an integer may stand for a float."""
    if isinstance(hint, types.UnionType):
        return any(fits(value, choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item, *_ = typing.get_args(hint)
        return isinstance(value, tuple) and all(fits(v, item) for v in value)
    kinds = {float: (int, float), None: (type(None),)}.get(hint, (hint,))
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
