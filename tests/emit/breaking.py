"""Ways to break what is emitted: a kernel's call, or the text of its template.

What changes a call is given how it is called rightly, the op, and its operands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from archsmith.compiler.schedule.code import Code, call
from archsmith.compiler.schedule.kernel import Kernel

Call = Callable[..., Code]


def called(kernel: type[Kernel], change: Call) -> type[Kernel]:
    """The kernel with another call."""

    def call(self: Kernel, op: Any, *operands: Code, **given: Any) -> Code:
        return change(kernel().call, op, *operands, **given)

    return type(kernel.__name__, (kernel,), {"__module__": kernel.__module__, "call": call})


def edited(kernel: type[Kernel], old: str, new: str) -> type[Kernel]:
    """The kernel with another text in its template."""
    text = kernel.template()
    assert text is not None
    assert old in text
    template = classmethod(lambda cls, part="": text.replace(old, new))
    return type(kernel.__name__, (kernel,), {"__module__": kernel.__module__, "template": template})


def wrong_scale(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(replace(op, scale=op.scale * (1 + 1e-6)), *operands, **given)


def key_for_query(call: Call, op: Any, q: Code, k: Code, *others: Code, **given: Any) -> Code:
    return call(op, k, q, *others, **given)


def other_pairs(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(replace(op, interleaved=not op.interleaved), *operands, **given)


def no_rotation_of_queries(call: Call, op: Any, x: Code, *angles: Code, **given: Any) -> Code:
    return x if "q" in x.text else call(op, x, *angles, **given)


def no_eps(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(replace(op, eps=0.0), *operands, **given)


def other_sizes(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(replace(op, sizes=op.sizes[::-1]), *operands, **given)


def other_names(make: Call, op: Any, *operands: Code, **given: Any) -> Code:
    """Of halves: what is alike in size and so is only found by what it holds."""
    return call("reversed", make(op, *operands, **given))


def no_bias(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(op, *operands[:-1], **given)


def not_normalized(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(replace(op, normalize=not op.normalize), *operands, **given)


def no_weight(
    make: Call, op: Any, x: Code, index: Code, weight: Code, *others: Code, **given: Any
) -> Code:
    return make(op, x, index, call("torch.ones_like", weight), *others, **given)


def up_for_gate(
    call: Call,
    op: Any,
    x: Code,
    index: Code,
    weight: Code,
    gate: Code,
    up: Code,
    down: Code,
    **given: Any,
) -> Code:
    return call(op, x, index, weight, up, gate, down, **given)


def one_less(call: Call, op: Any, *operands: Code, **given: Any) -> Code:
    return call(op, *operands, **given) * 0.999999
