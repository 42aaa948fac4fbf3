"""What a pass of pattern, check and rewrite does wrong is told in its author's words."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pattern import RewritePass
from archsmith.compiler.rewrite.pipeline import PassFailed

from .text_graphs import Fuse, graph, runner


class Simple(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(x)


class NoPattern(Fuse):
    """A pass of which half is missing."""


class UnknownOp(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcup(x)


class UnknownAttribute(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(x, bound=1.0)


class NoOperand(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(3.0)


class NoRoot(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return x


class AsksCheck(Simple):
    def check(self, *, y: Any, **_: Any) -> str | None:
        return None


class AsksRewrite(Simple):
    def rewrite(self, op: Any, *, x: Any, norm: Any) -> Any:
        return op.softcap(x, cap=1.0)


class Truth(Simple):
    def check(self, **_: Any) -> Any:
        return True


class Empty(Simple):
    def check(self, **_: Any) -> str | None:
        return ""


class Nothing(Simple):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        op.softcap(x, cap=1.0)


class Number(Simple):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        return 1.0


class Two(Simple):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        return x, x


class MakesUnknown(Simple):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        return op.scala(x, factor=1.0)


class MakesWithOther(Simple):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        return op.scale(x, by=1.0)


class MakesOfNumber(Simple):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        return op.add(x, 1.0)


class RefusesNothing(Simple):
    def rewrite(self, op: Any, *, x: Any, rewriter: Any) -> Any:
        rewriter.refuse("nope", "it is not there")
        return x


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (NoPattern, "it has no `pattern`"),
        (UnknownOp, "there is no op softcup; there are softcap"),
        (UnknownAttribute, "softcap has no attribute bound; there are: cap"),
        (NoOperand, "an operand of softcap is 3.0, not a variable or an op's result"),
        (NoRoot, "`pattern` returns Variable(name='x'), not the result of an op, or several"),
        (AsksCheck, "`check` asks for y; the pattern has op, rewriter, x"),
        (AsksRewrite, "`rewrite` asks for norm; the pattern has op, rewriter, x"),
        (Truth, "`check` returns True, not a reason in words, or None"),
        (Empty, "`check` returns '', not a reason in words, or None"),
        (Nothing, "`rewrite` returns None, which is no value of the graph"),
        (Number, "`rewrite` returns 1.0, which is no value of the graph"),
        (Two, "`rewrite` returns 2 values, the pattern 1"),
        (MakesUnknown, "there is no op scala; there are scale"),
        (MakesWithOther, "scale is given attributes: by; it has: factor"),
        (MakesOfNumber, "an operand of add is 1.0, no value of the graph"),
        (RefusesNothing, "refuses %nope, which is no node of b"),
    ],
)
def test_a_mistake_is_told(registry: Registry, made: type[RewritePass], says: str) -> None:
    text = graph("%h = scale(%x, factor=3.0) : X", "%y = softcap(%h, cap=1.0) : X", "return %y")
    with pytest.raises(PassFailed) as caught:
        runner(registry)(made(), text)
    assert says in str(caught.value)
    assert "Error" not in str(caught.value)
