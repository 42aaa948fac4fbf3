"""Attention in PyTorch."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call, name
from ...compiler.schedule.kernel import Kernel
from .attention import given


class TorchAttend(Kernel):
    name = "torch.attend"
    implements = "attend"
    functions = ("attend",)

    def cost(
        self, op: Attend, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """A mask, and one of PyTorch's kernels, which is no more than FlashAttention-2.

        That reaches 35 % of the peak where matrix instructions run beside the warps that ask for
        them (arXiv:2407.08608, section 1), and 73 % elsewhere (arXiv:2307.08691, section 4). Of one
        query, it takes a program a row and key head: more processors than that stand idle.
        """
        least = op.cost(sizes, *operands)
        if op.page is not None:  # rows are put in order first: read, written, and made zero behind
            context = sum(map(sizes.bytes, operands[1 : 2 if op.value_in_key else 3]))
            least += Cost(bytes=3 * context, launches=6)
        if op.softcap is not None or len(operands) > 4:  # step by step, scores stored in float32
            q, k, *_ = operands
            steps = 16 + 3 * (op.softcap is not None) + 2 * (len(operands) > 4)
            slots = sizes.slots(None if op.window is None else op.window.size)
            scores = sizes.rows * q.row[0].size * slots // sizes.batch
            between = 4 * (10 * scores + sizes.count(q) + 2 * sizes.count(k))
            wide = target.peak.get(q.dtype, 1.0) / target.peak.get("float32", 1.0)
            return Cost(least.flops * max(wide, 1.0), least.bytes + between, steps)
        reached = 0.35 if {"wgmma", "tcgen05"} & {*target.features} else 0.73
        if sizes.tokens > 1:
            return Cost(least.flops / reached, least.bytes, 1 if op.window is None else 6)
        heads = operands[1].row[0].size
        busy = min(sizes.batch * heads / target.processors, 1.0)
        return Cost(least.flops / reached, least.bytes / busy, 4)

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
        table: Code | None = None,
        slots: Code | None = None,
    ) -> Code:
        in_key = {"value_in_key": True} if op.value_in_key else {}
        options = {
            "scale": op.scale,
            "causal": causal(phases),
            **given(op, sinks, held, table, slots),
            **in_key,
        }
        return call("attend", q, k, v, positions, **options)


def causal(phases: tuple[str, ...]) -> Code | bool:
    """Whether the tokens of the call are the whole context: always so in training."""
    if phases == ("train",):
        return True
    fresh = name("cache.fresh")
    return name("cache").is_none() | fresh if "train" in phases else fresh
