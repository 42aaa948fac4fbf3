"""Attention of many query heads to one latent in Gluon, whose layouts compute no score twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost
from ...compiler.ir.cost import Sizes as Call
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from .attention import Sizes, given, pageless, refusal

ROWS = 64  # query heads of a tile, which a warp group's matrix instruction takes
SLOTS = 64  # of a block
SWIZZLED = 64  # columns that the instruction's layout of shared memory takes at a time
WIDEST = 512  # columns of a result that two warp groups have registers for


class GluonLatentAttention(Kernel):
    name = "gluon.latent_attention"
    implements = "attend"
    functions = ("latent_attention",)
    parts = ("gluon", "latent_tiles", "latent_split", "latent_parts")
    triton = True
    gluon = True
    reference = "triton.decode_attention"
    phases = ("decode",)

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := refusal(op, operands, target):
            return reason
        sizes = Sizes.of(operands)
        if "wgmma" not in target.features:
            return f"{target.name} has no wgmma, which its products are written for"
        if not op.value_in_key:
            return "the values are no part of the keys"
        if sizes.bytes != 2:
            return f"its tiles are of 16 bits, not of {operands[1].dtype}"
        if sizes.group < ROWS:
            return f"{sizes.group} query heads do not fill a tile of {ROWS}"
        key, rest = sizes.parts
        if key != sizes.v or key + rest != sizes.k or min(key, rest) < SWIZZLED or key > WIDEST:
            return (
                f"keys of {sizes.k} and values of {sizes.v} are no powers of two from {SWIZZLED}"
                f" to {WIDEST} columns of values, and others behind them"
            )
        if reason := pageless(op, SLOTS):
            return reason
        config = next(self.configs(op, operands, 1, target))
        held = _held(sizes, config)
        if held > target.shared_memory:
            return f"a tile takes {held} bytes of {target.shared_memory} of shared memory"
        return None

    def cost(
        self, op: Attend, operands: tuple[TensorType, ...], sizes: Call, target: Target
    ) -> Cost:
        tiles = operands[1].row[0].size * -(-sizes.tokens * Sizes.of(operands).group // ROWS)
        return op.cost(sizes, *operands) + launches(sizes.batch * tiles, target)

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        key, rest = Sizes.of(operands).parts
        constants = {"KEY": key, "REST": rest, "BLOCK_M": ROWS, "BLOCK_N": SLOTS}
        yield Config(constants, num_warps=8)

    def key(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return Sizes.of(operands).key

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {Sizes.of(use.operands).key: use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"processors": target.processors}

    def call(
        self,
        op: Attend,
        q: Code,
        k: Code,
        v: Code,
        positions: Code,
        *,
        phases: tuple[str, ...],
        table: Code | None = None,
        slots: Code | None = None,
    ) -> Code:
        options = {"value_in_key": op.value_in_key, **given(op, None, None, table, slots)}
        return call("latent_attention", q, k, v, positions, op.scale, **options)


def launches(tiles: int, target: Target) -> Cost:
    """Where tiles are few, a second launch combines what the programs of each have found."""
    return Cost(launches=1 if 2 * tiles > target.processors else 2)


def _held(sizes: Sizes, config: Config) -> int:
    """Bytes of queries, two blocks of keys, and weights."""
    block_m, block_n = config.constants["BLOCK_M"], config.constants["BLOCK_N"]
    return sizes.bytes * (sizes.k * (block_m + 2 * block_n) + block_m * block_n)
