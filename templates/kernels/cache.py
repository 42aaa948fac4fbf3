"""The cache's rows: a call of what the emitted `cache.py` gives every layer."""

from __future__ import annotations

from ...compiler.ops.attention import Cached
from ...compiler.schedule.code import Code, name
from ...compiler.schedule.kernel import Kernel


class TorchCached(Kernel):
    name = "torch.cached"
    implements = "cached"

    def call(
        self,
        op: Cached,
        x: Code,
        positions: Code,
        *,
        phases: tuple[str, ...],
        as_pages: bool = False,
    ) -> Code:
        return name("cache").method("keep" if as_pages else "write", op.cache, x)
