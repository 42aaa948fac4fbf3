"""Attention in PyTorch."""

from __future__ import annotations

from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call, name
from ...compiler.schedule.kernel import Kernel


class TorchAttend(Kernel):
    name = "torch.attend"
    implements = "attend"
    functions = ("attend",)

    def call(
        self,
        op: Attend,
        q: Code,
        k: Code,
        v: Code,
        positions: Code,
        sinks: Code | None = None,
        *,
        phases: tuple[str, ...],
        held: Code | None = None,
    ) -> Code:
        options = {
            "window": None if op.window is None else int(op.window),
            "softcap": op.softcap,
            "sinks": sinks,
            "held": held,
        }
        given = {key: value for key, value in options.items() if value is not None}
        return call("attend", q, k, v, positions, scale=op.scale, causal=_causal(phases), **given)


def _causal(phases: tuple[str, ...]) -> Code | bool:
    """Whether the tokens of the call are the whole context: always so in training."""
    if phases == ("train",):
        return True
    fresh = name("cache.fresh")
    return name("cache").is_none() | fresh if "train" in phases else fresh
