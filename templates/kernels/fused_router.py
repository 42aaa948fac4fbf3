"""The choice of experts in Triton, from a token's row to the experts that it uses, normed or not.

Programs share out the weight where there are too few rows for all processors. Of few rows the last
program to end chooses, told by a counter; of more, a second launch adds up sums and chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, ClassVar

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import SCORES, NormRouter, Router
from ...compiler.ops.norm import AddRmsNorm
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Step, Use
from ...compiler.schedule.tiles import unable
from .add_rms_norm import TritonAddRmsNorm
from .route import rules, shifted
from .router_tiles import FEW, Shape, factors, norms, of_few, of_many, whole

TILE = 1024  # numbers of the tile of a program that only chooses
MOST = 1024  # columns of a row that a program chooses from


class TritonRouter(Kernel):
    name = "triton.router"
    implements = "router"
    functions = ("fused_router",)
    triton = True
    reference = "torch.router"
    parts = ("choose_experts", "route_few", "route_many")
    ladder: ClassVar[tuple[int, ...]] = (1, FEW, 128, 1024)

    def refuses(self, op: Router, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := unable(operands, target):
            return reason
        x, weight = factors(op, operands)
        if x.dtype != weight.dtype and (x.dtype, weight.dtype) != ("bfloat16", "float32"):
            return f"it has no product of {x.dtype} and a router's weight in {weight.dtype}"
        if (columns := Shape.of(op, operands).columns) > MOST:
            return f"a row of {columns} experts and gaps does not fit one program: at most {MOST}"
        if any(next(self.configs(op, operands, n, target), None) is None for n in self.ladder):
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: Router, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Sums that are shared out are written and read once more, by two launches, or by one and
        a counter that is cleared; a weight in float32 is three factors in bfloat16."""
        shape = Shape.of(op, operands)
        tile = self._tile(op, operands, sizes.rows, target)
        own = op.cost(sizes, *operands)
        products = 1 if tile.get("M") == 1 else shape.factors
        parts = Cost(flops=(products - 1) * own.flops, launches=1)
        if "M" in tile or not whole(tile):
            between = shape.between(sizes.rows, tile["SPLITS"])
            parts += Cost(bytes=between, launches=1)
        return own + parts

    def _tile(
        self, op: Router, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Mapping[str, int]:
        """The first candidate for a call of so many rows."""
        most = next((n for n in self.ladder if rows <= n), 4 * self.ladder[-1])
        return next(self.configs(op, operands, most, target)).constants

    def configs(
        self, op: Router, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield from (of_few if rows <= FEW else of_many)(rows, Shape.of(op, operands), target)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles: dict[Any, dict[int | None, Any]] = {}
        normed: dict[Any, dict[int | None, Any]] = {}
        # Where routers of both kinds are alike, what has no norm says how it is done without.
        for use in sorted(uses, key=lambda use: not isinstance(use.op, NormRouter)):
            shape = Shape.of(use.op, use.operands)
            tiles[shape.key] = {}
            for most, config in use.tiles:
                both = _launches(config, target)
                kind = normed.setdefault(shape.key, {}) if _normed(config) else tiles[shape.key]
                kind[most] = both
        return {
            "TILES": {key: tiles[key] for key in sorted(tiles)},
            "NORMED": {key: normed[key] for key in sorted(normed)},
            "SCORES": tuple(sorted({use.op.score for use in uses})),
        }

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        shapes = [Shape.of(use.op, use.operands) for use in uses]
        depths = [config.constants["BLOCK_K"] for use in uses for _, config in use.tiles]
        grouped = [use.op for use, shape in zip(uses, shapes, strict=True) if shape.groups > 1]
        normed = [use.op for use in uses if isinstance(use.op, NormRouter)]
        return {
            **{score: any(use.op.score == score for use in uses) for score in SCORES},
            "grouped": bool(grouped),
            "two": any(op.group_score == "top2_sum" for op in grouped),
            "wide": any(shape.factors > 1 for shape in shapes),
            "masked": any(shape.width % depth for shape, depth in product(shapes, depths)),
            "shifted": shifted(uses),
            "normed": bool(normed),
            "offset": any(op.offset for op in normed),
            "apart": not target.waits,
        }

    def call(
        self,
        op: Router,
        x: Code,
        weight: Code,
        bias: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        return call("fused_router", x, weight, bias, **rules(op))


class TritonNormRouter(TritonRouter):
    name = "triton.norm_router"
    implements = "norm_router"
    functions = ("fused_norm_router",)
    reference = "torch.norm_router"
    phases = ("prefill", "decode")
    ladder = (1, 2, 4, 8, FEW, 128, 1024)

    def refuses(self, op: Router, operands: tuple[TensorType, ...], target: Target) -> str | None:
        assert isinstance(op, NormRouter)
        (norm,) = self.beside(op, operands)
        refusal = norm.kernel.refuses(norm.op, norm.operands, target)
        return super().refuses(op, operands, target) or refusal

    def cost(
        self, op: Router, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Of few rows one launch, or two where no program can tell that it is the last."""
        cost = super().cost(op, operands, sizes, target)
        tile = self._tile(op, operands, sizes.rows, target)
        if tile.get("NORMED"):
            return cost + Cost(launches=-1 if target.waits else 0)
        # Rows are normed by a launch before, which reads and writes them once more.
        counted = "M" in tile and target.waits  # by the counter that is there
        moved = 2 * sizes.bytes(operands[0])
        return cost + Cost(bytes=moved, launches=0 if counted else 1)

    def beside(self, op: NormRouter, operands: tuple[TensorType, ...]) -> Iterator[Step]:
        """Of more rows than each program would norm for itself."""
        yield Step(TritonAddRmsNorm(), AddRmsNorm(op.eps, op.offset), operands[:3])

    def counters(self, op: Router, operands: tuple[TensorType, ...], target: Target) -> int:
        return 1 if target.waits else 0

    def configs(
        self, op: Router, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        shape = Shape.of(op, operands)
        for config in super().configs(op, operands, rows, target):
            normed = {"NORMED": 1} if norms(rows, shape, target) else {}
            yield Config({**config.constants, **normed}, config.num_warps, config.num_stages)

    def call(  # type: ignore[override]
        self,
        op: NormRouter,
        x: Code,
        residual: Code,
        gain: Code,
        weight: Code,
        bias: Code | None = None,
        *,
        phases: tuple[str, ...],
        arrived: Code | None = None,
    ) -> Code:
        named = {"eps": op.eps, **rules(op), **({"offset": op.offset} if op.offset else {})}
        return call("fused_norm_router", x, residual, gain, weight, arrived, bias, **named)


def _normed(config: Config) -> bool:
    """Whether programs norm their rows themselves."""
    return bool(config.constants.get("NORMED"))


def _launches(
    config: Config, target: Target
) -> tuple[Mapping[str, int] | None, Mapping[str, int] | None]:
    """What programs are compiled with that share out the sums, if any do, and those that choose,
    where that is a launch of its own."""
    options = {key: size for key, size in config.options().items() if key != "NORMED"}
    if "M" not in options and whole(options):
        return None, options
    if "M" in options and target.waits:
        return options, None
    block = options["BLOCK"]
    rows = max(TILE // block, 4)  # one for each warp, or as many short ones as make a tile
    kept = {key: options[key] for key in ("BLOCK", "SLOTS", "SPLITS")}
    alone = {**kept, "BLOCK_M": rows, "BLOCK_N": block, "BLOCK_K": 0}
    return options, Config(alone, num_warps=4).options()
