"""The forecasts of several specs on several targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .driver import Compiler
from .errors import ArchsmithError
from .ir.cost import USUAL_CONTEXT
from .schedule.forecast import Demand, Forecast, forecast


def forecasts(
    specs: Sequence[Path],
    targets: Sequence[str],
    *,
    pipeline: str | None = None,
    batch: int = 1,
    context: int | None = None,
    cache_bits: Sequence[int] = (),
    tuned: Path | None = None,
) -> list[Forecast]:
    """What each spec costs on each target, one spec after another.

    `cache_bits` are one number for all specs, or one for each. Nothing is written, so passes are
    proved by their structure alone.
    """
    if len(cache_bits) not in (0, 1, len(specs)):
        raise ArchsmithError(
            f"--cache-bits is given {len(cache_bits)} times for {len(specs)} specs; give it once,"
            " or once for each"
        )
    found = []
    for i, path in enumerate(specs):
        bits = cache_bits[i if len(cache_bits) > 1 else 0] if cache_bits else None
        for target in targets:
            compiler = Compiler.installed(target, numeric=False, tuned=tuned)
            spec = compiler.load(path)
            if context is not None and context > spec.max_positions:
                raise ArchsmithError(
                    f"--context {context} is more than {spec.name} takes: {spec.max_positions}"
                )
            _, passes = compiler.passes(pipeline or spec.pipeline)
            model, _ = compiler.rewrite(compiler.build(spec), passes)
            length = context or min(USUAL_CONTEXT, spec.max_positions)
            found.append(forecast(compiler.schedule(model), Demand(batch, length, bits)))
    return found
