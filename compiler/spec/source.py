"""A YAML file as plain data in which every key and value knows its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from .diagnostics import HARMFUL, LINE_BREAK, Diagnostic, Listing, Span, SpecError, quoted
from .scalar import meaning

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_ALIASES = 100

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Source(Listing):
    """A read file: its `tree` of dicts, lists and scalars, and where each stands.

    `keys` and `values` map a path from the root, such as `("layers", 0, "repeat")`, to a place.
    `mistakes` are those that did not keep the rest from being read.
    """

    tree: Any = None
    keys: Mapping[KeyPath, Span] = field(default_factory=dict)
    values: Mapping[KeyPath, Span] = field(default_factory=dict)
    mistakes: tuple[Diagnostic, ...] = ()

    def value(self, path: KeyPath) -> Span | None:
        """Return the place of the value at `path`, or of the nearest that is written."""
        while path not in self.values and path:
            path = path[:-1]
        return self.values.get(path)

    def key(self, path: KeyPath) -> Span | None:
        """Return the place of the key at the end of `path`, or else of its value."""
        return self.keys.get(path) or self.value(path)


def read(path: str | Path) -> Source:
    """Read a file; raise SpecError where it cannot be read or is not plain YAML."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        found = Diagnostic("E0101", f"cannot read {quoted(name)}: {reason}")
        raise SpecError(Listing(name), [found]) from None
    if len(data) > MAX_BYTES:
        found = Diagnostic(
            "E0103", "the file is too large", Span(1, 1), f"at most {MAX_BYTES} bytes are read"
        )
        raise SpecError(Listing(name), [found])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        listing = Listing(name, data.decode("utf-8", "replace"))
        found = Diagnostic(
            "E0102", "the file is not UTF-8", _place(before), "save the file as UTF-8"
        )
        raise SpecError(listing, [found]) from None
    return parse(text, name)


def parse(text: str, name: str) -> Source:
    """Read YAML from `text`, shown under `name`; raise SpecError where it is not plain YAML."""
    text = text.removeprefix("\ufeff")
    listing = Listing(name, text)
    if len(text) > MAX_BYTES:
        found = Diagnostic(
            "E0103", "the text is too large", Span(1, 1), f"at most {MAX_BYTES} bytes are read"
        )
        raise SpecError(listing, [found])
    for harmful in HARMFUL.finditer(text):
        if harmful.group() not in "\t\r\n":
            found = Diagnostic(
                "E0102",
                f"the character U+{ord(harmful.group()):04X} may not stand in a spec",
                _place(text[: harmful.start()]),
                "take it out: it is a control character, a line separator or changes the"
                " direction of text",
            )
            raise SpecError(listing, [found])
    return _Composer(listing).source()


def _place(before: str) -> Span:
    """Return the place that follows the text `before`."""
    lines = LINE_BREAK.split(before)
    return Span(len(lines), len(lines[-1]) + 1)


@dataclass
class _Node:
    """A scalar, list or map of YAML; an alias is the very node of its anchor."""

    span: Span
    content: Any = None  # a scalar, a list of nodes, or a dict of name -> (span of the key, node)
    size: int = 1
    height: int = 1


class _Composer:
    """Builds nodes from the parser's events, so that limits hold before anything is large."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.mistakes: list[Diagnostic] = []
        self.anchors: dict[str, _Node] = {}
        self.aliases = 0
        self.nodes = 0
        self.keys: dict[KeyPath, Span] = {}
        self.values: dict[KeyPath, Span] = {}

    def source(self) -> Source:
        try:
            root = self.document(YAML(typ="safe", pure=True).parse(self.listing.text))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            span = Span(mark.line + 1, mark.column + 1) if mark else Span(1, 1)
            message = " ".join(str(error.problem or error.context).split())
            help = None
            if error.context and error.context_mark:
                help = f"{error.context} that starts in line {error.context_mark.line + 1}"
            raise self.fatal("E0104", f"not YAML: {message}", span, help) from None
        except (YAMLError, RecursionError, MemoryError, ValueError, IndexError) as error:
            reason = type(error).__name__
            raise self.fatal("E0104", f"not YAML: {reason}", Span(1, 1)) from None
        tree = self.flatten(root, ())
        listing = self.listing
        return Source(
            listing.name, listing.text, tree, self.keys, self.values, tuple(self.mistakes)
        )

    def fatal(self, code: str, message: str, span: Span, help: str | None = None) -> SpecError:
        return SpecError(self.listing, [*self.mistakes, Diagnostic(code, message, span, help)])

    def document(self, events: Iterator[Event]) -> _Node:
        """Compose the first document; another one is a mistake."""
        root = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                span = self.span(event)
                if event.version or event.tags:
                    self.unused(span, "a directive")
                if root is not None:
                    self.unused(span, "a second document")
                    break
            elif isinstance(event, NodeEvent):
                root = self.node(event, events, 1)
        return root or _Node(Span(1, 1))

    def unused(self, span: Span, what: str, help: str = "take it out") -> None:
        message = f"{what} is not among what a spec uses of YAML"
        self.mistakes.append(Diagnostic("E0106", message, span, help))

    def node(self, event: Event, events: Iterator[Event], depth: int) -> _Node:
        span = self.span(event)
        found = self.alias(event.anchor, span) if isinstance(event, AliasEvent) else _Node(span)
        if depth + found.height - 1 > MAX_DEPTH:
            message = f"nested more than {MAX_DEPTH} deep"
            raise self.fatal("E0103", message, span, "a spec is about 5 deep")
        self.nodes += found.size
        if self.nodes > MAX_NODES:
            message = f"more than {MAX_NODES} values, aliases expanded"
            raise self.fatal("E0103", message, span, "a spec has about 200")
        if isinstance(event, AliasEvent):
            return found
        tag = getattr(event, "ctag", None)
        if tag is not None:
            self.unused(span, f"the tag {quoted(tag)}")
        if isinstance(event, MappingStartEvent):
            self.mapping(found, events, depth)
        elif isinstance(event, SequenceStartEvent):
            self.sequence(found, events, depth)
        elif isinstance(event, ScalarEvent):
            plain = event.style is None
            found.content = self.scalar(event.value, span) if plain else event.value
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = found
        return found

    def alias(self, name: str, span: Span) -> _Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            message = f"more than {MAX_ALIASES} aliases"
            raise self.fatal("E0103", message, span, "write the values out")
        if name not in self.anchors:
            message = f"the alias {quoted('*' + name)} has no anchor before it"
            raise self.fatal("E0104", message, span, f"write {quoted('&' + name)} where it is")
        return self.anchors[name]

    def sequence(self, found: _Node, events: Iterator[Event], depth: int) -> None:
        found.content = []
        for event in events:
            if isinstance(event, CollectionEndEvent):
                return
            child = self.node(event, events, depth + 1)
            found.content.append(child)
            found.size += child.size
            found.height = max(found.height, child.height + 1)

    def mapping(self, found: _Node, events: Iterator[Event], depth: int) -> None:
        found.content = {}
        for event in events:
            if isinstance(event, CollectionEndEvent):
                return
            key = self.node(event, events, depth + 1)
            key_span = self.span(event)
            child_event = next(events)
            child = self.node(child_event, events, depth + 1)
            if child.content is None and getattr(child_event, "value", None) == "":
                child.span = key_span  # an absent value's own mark is that of the next token
            found.size += key.size + child.size
            found.height = max(found.height, key.height + 1, child.height + 1)
            self.entry(found.content, key, key_span, child, getattr(event, "style", None) is None)

    def entry(
        self, entries: dict[str, Any], key: _Node, span: Span, child: _Node, plain: bool
    ) -> None:
        """Add a map's entry, unless its key is no good."""
        name = key.content
        if not isinstance(name, str):
            self.mistakes.append(
                Diagnostic("E0107", "a key must be text", span, "names start with a letter")
            )
        elif name == "<<" and plain:
            self.unused(span, "the merge key `<<`", "write the fields out")
        elif name in entries:
            first = entries[name][0].line
            message = f"the key {quoted(name)} is written twice"
            self.mistakes.append(
                Diagnostic("E0105", message, span, f"it is first written in line {first}")
            )
        else:
            entries[name] = (span, child)

    def scalar(self, text: str, span: Span) -> Any:
        """Return what a plain scalar means, and note a number that is none."""
        value = meaning(text)
        if value != value:
            message = f"{quoted(text)} is no number that a computer holds"
            help = "numbers are finite, and integers have at most 18 digits"
            self.mistakes.append(Diagnostic("E0108", message, span, help))
        return value

    def span(self, event: Event) -> Span:
        """Return an event's place: all of a scalar's first line, or where a collection opens."""
        start, end = event.start_mark, event.end_mark
        length = 1
        if isinstance(event, ScalarEvent | AliasEvent):
            same = end.line == start.line
            line = self.listing.line(start.line + 1)
            length = (end.column if same else len(line)) - start.column
        return Span(start.line + 1, start.column + 1, max(length, 1))

    def flatten(self, node: _Node, path: KeyPath) -> Any:
        """Return plain data, and note the places below `path`."""
        self.values[path] = node.span
        if isinstance(node.content, list):
            return [self.flatten(child, (*path, i)) for i, child in enumerate(node.content)]
        if isinstance(node.content, dict):
            for name, (span, _) in node.content.items():
                self.keys[*path, name] = span
            return {n: self.flatten(c, (*path, n)) for n, (_, c) in node.content.items()}
        return node.content
