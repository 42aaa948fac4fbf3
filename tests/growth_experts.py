"""The steps of growth that are mixtures of experts."""

from __future__ import annotations

from archsmith.compiler.ir.build import Build
from archsmith.compiler.ir.dims import ONE, TWO, Dim
from archsmith.compiler.ir.graph import Value
from archsmith.compiler.ir.weights import Shape
from hypothesis import strategies as st

EXPERTS, TOP_K, INNER = Dim(8, 4), Dim(3, 2), Dim(20, 7)


class ExpertSteps:
    """Each appends one op at least, on `self.x` [B, T, D]."""

    draw: st.DrawFn
    x: Value

    @property
    def op(self) -> Build:
        raise NotImplementedError

    def param(self, stem: str, shape: Shape, *, experts: bool = False) -> Value:
        raise NotImplementedError

    @property
    def _hidden(self) -> Dim:
        (hidden,) = self.x.type.row
        return hidden

    def experts(self) -> Value:
        index, weight = self._routed()
        gate = self.param("gate", (EXPERTS, INNER, self._hidden), experts=True)
        up = self.param("up", (EXPERTS, INNER, self._hidden), experts=True)
        down = self.param("down", (EXPERTS, self._hidden, INNER), experts=True)
        biases = self._biases(gate=(INNER,), up=(INNER,), down=(self._hidden,))
        operands = (self.x, index, weight, gate, up, down, *biases)
        return self.op.experts(*operands, activation="silu", **self._rules())

    def fused_experts(self) -> Value:
        index, weight = self._routed()
        gate_up = self.param("gate_up", (EXPERTS, TWO, INNER, self._hidden), experts=True)
        down = self.param("down", (EXPERTS, self._hidden, INNER), experts=True)
        biases = self._biases(gate_up=(TWO, INNER), down=(self._hidden,))
        operands = (self.x, index, weight, gate_up, down, *biases)
        return self.op.fused_experts(*operands, activation="gelu", **self._rules())

    def shared_experts(self) -> Value:
        """Experts, and beside them what every token uses."""
        fused = self.draw(st.booleans())
        self.x = x = self.op.rms_norm(self.x, self.param("norm", (self._hidden,)), eps=1e-6)
        routed = self.fused_experts() if fused else self.experts()
        if self.draw(st.booleans()):
            routed = self.op.scale(routed, factor=0.5)
        width = self.draw(st.sampled_from([INNER, INNER * 3, INNER + 1]))
        gate, up = (
            self.op.einsum(x, self.param(stem, (width, self._hidden)), equation="btd,fd->btf")
            for stem in ("wide_gate", "wide_up")
        )
        gate = self.op.activation(gate, function="gelu" if fused else "silu")
        down = self.param("wide_down", (self._hidden, width))
        shared = self.op.einsum(self.op.mul(gate, up), down, equation="btf,df->btd")
        return self.op.add(*((routed, shared) if self.draw(st.booleans()) else (shared, routed)))

    def _biases(self, **shapes: Shape) -> list[Value]:
        """Those of all of an expert's products, in some models."""
        if self.draw(st.sampled_from([False, False, True])):
            return [
                self.param(f"{stem}_bias", (EXPERTS, *shape), experts=True)
                for stem, shape in shapes.items()
            ]
        return []

    def _rules(self) -> dict[str, float]:
        """How gate and up are multiplied, in some models otherwise than by default."""
        other = {"alpha": 1.7, "clamp": 0.6, "up_offset": 1.0}
        return self.draw(st.sampled_from([{}, {}, other, {"clamp": 0.8}]))

    def _routed(self) -> tuple[Value, Value]:
        table = self.param("router", (EXPERTS, self._hidden))
        rules = {
            "score": self.draw(st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus"])),
            "top_k": TOP_K,
            "groups": self.draw(st.sampled_from([ONE, TWO])),
            "normalize": True,
        }
        if self.draw(st.booleans()):
            return self.op.router(self.x, table, **rules, name=("index", "share"))
        wide = self.op.widen(self.x), self.op.widen(table)
        logits = self.op.einsum(*wide, equation="btd,ed->bte")
        return self.op.route(logits, **rules, name=("index", "share"))
