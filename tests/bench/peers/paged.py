"""Keys as servers keep them: pages of 64 slots, of which a table says whose they are."""

from __future__ import annotations

import torch
from torch import Tensor

PAGE = 64


def paged(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Pages [P, 64, G, K] of rows [B, S, G, K], and each row's pages, int32 [B, S / 64]."""
    batch, slots = rows.shape[:2]
    if slots % PAGE:
        raise ValueError(f"{slots} slots are no whole pages of {PAGE}")
    pages = torch.arange(batch * slots // PAGE, dtype=torch.int32, device=rows.device)
    whole = rows.contiguous().view(-1, PAGE, *rows.shape[2:])
    return whole, pages.view(batch, -1)


def counts(positions: Tensor) -> Tensor:
    """How many slots the last token of each row sees, int32 [B]."""
    return positions[:, -1].int() + 1
