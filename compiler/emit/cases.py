"""How a package tries its Triton kernels on a GPU: a call of each kind it makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..ir.dims import CONTEXT, Dim
from ..ir.types import EIGHT_BITS
from ..ops.moe import NormRouter
from ..schedule.code import Code, call, name, tuple_of
from ..schedule.kernel import Kernel, Use
from ..schedule.plan import Plan
from .layout import statement
from .pools import in_pages
from .values import Name, Source


def cases(plan: Plan) -> list[tuple[Name, Source]]:
    """A method for each function of a kernel: its name, and statements in a loop over calls."""
    found = []
    for kernel in plan.launched():
        lines: dict[str, list[str]] = {}
        for use in plan.uses(kernel):
            lines.setdefault(kernel.function(use.op), []).extend(_lines(plan, kernel, use))
        found += [(Name(f"test_{key}"), Source(tuple(lines[key]))) for key in sorted(lines)]
    return found


def imports(plan: Plan) -> Source:
    """Of the functions of the Triton kernels in use, and of what they are tried by.

    Each from its own file: the model does not use what only runs in the place of another.
    """
    taken: dict[str, set[str]] = {}
    for kernel in plan.launched():
        functions = {kernel.function(use.op) for use in plan.uses(kernel)}
        taken.setdefault(kernel.stem(), set()).update(functions)
    exact = {"DTYPE", "compare", "results", "widen"}
    named = [(f".kernels.{stem}", taken[stem]) for stem in sorted(taken)]
    named += [("appended", {"Appended"})] * appends(plan)
    named += [("exact", exact | {"Wide", "floats", "leaf"} if plan.gradients else exact)]
    named += [("launches", {"launches", "steps"} | ({"runs_gluon"} if has_gluon(plan) else set()))]
    named += [("routed", {"Routed"})] * routes(plan)
    named += [("tables", {"draw_table", "in_pages"})] * reads_pages(plan)
    lines = (
        statement(f"from .{file} import {', '.join(sorted(names))}", 0) for file, names in named
    )
    return Source(tuple(line for each in lines for line in each))


def has_gluon(plan: Plan) -> bool:
    """Whether any kernel in use is in Gluon."""
    return any(kernel.gluon for kernel in plan.launched())


def appends(plan: Plan) -> bool:
    """Whether any kernel writes rows where a cache keeps them."""
    return any(choice.op.stateful and not choice.op.keeps for choice in plan.choices)


def reads_pages(plan: Plan) -> bool:
    """Whether any Triton kernel reads contexts that lie in pages."""
    return any(c.op.pages() is not None and c.kernel.triton for c in plan.choices)


def routes(plan: Plan) -> bool:
    """Whether a kernel in Triton norms what it chooses experts by."""
    return any(isinstance(c.op, NormRouter) and c.kernel.triton for c in plan.choices)


def _lines(plan: Plan, kernel: Kernel, use: Use) -> Iterator[str]:
    """Statements that hold one use of a kernel to PyTorch, for calls of some sizes."""
    names = use.op.named(len(use.operands))
    phases = tuple(
        dict.fromkeys(
            choice.phase
            for choice in plan.choices
            if kernel.name in (k.name for k in plan.chain(choice.kernel))
            and plan.use(choice, kernel) == use
        )
    )
    # Of no phase, since none is known of what is drawn.
    pages = in_pages(use.op, name("S"))
    code = kernel.call(use.op.at("size"), *map(name, names), phases=(), **pages)
    function, _, arguments = code.text.partition("(")
    if written := use.op.written:
        function = call("cache.appending", written, name(function)).text
    if isinstance(use.op, NormRouter):
        function = f"Routed({function})"
    drawn = {key: _in_pages(use, key, _drawn(plan, key, use)) for key in names}
    parts = use.op.beginnings()
    whole = {key: code for key, code in drawn.items() if key not in parts}
    once = [key for key, code in whole.items() if not re.search(r"\b[BTS]\b", code.text)]
    for key in once:  # weights, the same for all calls
        yield from statement(f"{key} = {drawn[key].text}", 8)
    context = "S" if any(re.search(r"\bS\b", code.text) for code in drawn.values()) else "_"
    calls = _calls(use, phases)
    some = ", gluon=True" * kernel.gluon
    yield from statement(f"for B, T, {context} in self.calls({calls.text}{some}):", 8)
    if pages:
        yield from statement(f"table = draw_table(B, S, {use.op.at('size').pages()}, DEVICE)", 12)
    several = [key for key in names if key not in once]
    for key in several:
        yield from statement(f"{key} = {drawn[key].text}", 12)
    if written:
        kept = dict(zip(written, use.op.types(*use.operands)[-len(written) :], strict=True))
        rows = {key: tuple(axis.size for axis in t.row) for key, t in kept.items()}
        unlike = {key: t.dtype for key, t in kept.items() if t.dtype != plan.model.dtype}
        dtypes = {key: name(f"torch.{dtype}") for key, dtype in unlike.items()}
        made = call("Appended", name("positions"), name("S"), rows, *[dtypes] * bool(dtypes))
        yield from statement(f"cache = {made.text}", 12)
    if experts := _experts(use):
        arguments = f"{arguments[:-1]}, experts=[{', '.join(experts)}])"
    yield from statement(f"self.agree({function}, {arguments}", 12)
    gradient = plan.gradients.get(kernel.name)
    if gradient is None or "train" not in phases:
        return
    same = (u for u in plan.uses(gradient) if (u.op, u.operands) == (use.op, use.operands))
    others = _calls(next(same), phases)
    if gradient.of_several:  # what is zero but for rounding is close to nothing
        others = others[1:]
    chosen = [key for key in several if drawn[key].text.startswith("draw_choices(")]
    if others != calls or chosen:
        yield from statement(f"for B, T, {context} in self.calls({others.text}):", 8)
        for key in several:  # of few experts, so that each may be in float64
            few = ", few=True)" if key in chosen else ")"
            yield from statement(f"{key} = {drawn[key].text[:-1]}{few}", 12)
    held = f", constant=[{', '.join(gradient.constant)}])" if gradient.constant else ")"
    yield from statement(f"self.agree_in_gradients({function}, {arguments[:-1]}{held}", 12)


def _experts(use: Use) -> list[str]:
    """The operands that are weights of all experts, where tokens choose some of them."""
    types = dict(zip(use.op.named(len(use.operands)), use.operands, strict=True))
    if not any(type.dtype == "int64" and type.row for type in types.values()):
        return []
    count = use.operands[-1].row[0]
    weights = {key: t.row for key, t in types.items() if not key.endswith("_scale")}
    return [key for key, row in weights.items() if len(row) > 2 and row[0] == count]


def _calls(use: Use, phases: tuple[str, ...]) -> Code:
    """Batch, tokens and context of some calls: of each of its tiles, where there are several."""
    if phases == ("decode",):
        return name("DECODE")
    limits = [limit for limit, _ in use.tiles if limit is not None]
    if not limits:
        return name("CALLS")
    rows = [*limits, 2 * limits[-1] + 1]
    return tuple_of((2, 5, 9), (2, 70, 201), *((1, tokens, tokens) for tokens in rows))


def _drawn(plan: Plan, key: str, use: Use) -> Code:
    """A random operand."""
    types = dict(zip(use.op.named(len(use.operands)), use.operands, strict=True))
    type = types[key]
    if whole := use.op.beginnings().get(key):
        return name(whole)[..., : type.row[-1].size]
    if key == "positions":
        return call("draw_positions", name("B"), name("T"), name("S"))
    if type.dtype == "int64" and not type.row:  # which of the words
        words, shape = use.operands[1].row[0].size, tuple_of(name("B"), name("T"))
        return call("torch.randint", words, shape, device=name("DEVICE"))
    if type.dtype == "int64":  # which of the experts
        experts = use.operands[-1].row[0]
        return call("draw_choices", name("B"), name("T"), type.row[0].size, experts.size)
    if type.dtype in EIGHT_BITS:
        return call("draw_in_8_bits", *map(_axis, type.shape), dtype=name(f"torch.{type.dtype}"))
    if key.endswith("_scale"):
        return call("draw_scales", *map(_axis, type.shape))
    dtype = {} if type.dtype == plan.model.dtype else {"dtype": name(f"torch.{type.dtype}")}
    function = "draw_weight" if type.shape == type.row else "draw"
    return call(function, *map(_axis, type.shape), **dtype)


def _in_pages(use: Use, key: str, drawn: Code) -> Code:
    """What is drawn of an operand, laid out in pages if it is a context that lies there."""
    types = dict(zip(use.op.named(len(use.operands)), use.operands, strict=True))
    page = use.op.pages()
    if page is None or CONTEXT not in types[key].shape or key in use.op.beginnings():
        return drawn
    return call("in_pages", drawn, name("table"), page.size)


def _axis(axis: Dim | str) -> Code | int:
    return axis.size if isinstance(axis, Dim) else name(axis)
