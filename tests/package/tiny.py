"""What tests of emitted packages share: the tiny examples, fresh models of them, and prompts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ["tiny-llama", "tiny-mixtral", "tiny-qwen3-moe", "tiny-deepseek-v2", "tiny-deepseek-v3"]


class Change(Protocol):
    """Another spec, from an example's text."""

    def __call__(self, page: str, /) -> str: ...


class Build(Protocol):
    """Builds and imports the package of an example; one that is changed has a name of its own."""

    def __call__(self, example: str, change: Change = ..., name: str = ...) -> ModuleType: ...


def unchanged(page: str, /) -> str:
    return page


def tiny_gpt_oss(page: str, /) -> str:
    """The example of gpt-oss, whose experts are packed, at sizes that MXFP4 can have."""
    for large, small in (
        ("repeat: 24", "repeat: 2"),
        ("201088", "331"),
        ("hidden_size: 2880", "hidden_size: 96"),
        ("width: 2880", "width: 64"),
        ("heads: 64, kv_heads: 8, head_dim: 64", "heads: 6, kv_heads: 2, head_dim: 10"),
        ("experts: 32, top_k: 4", "experts: 5, top_k: 2"),
    ):
        assert large in page
        page = page.replace(large, small)
    return page


def fresh(package: ModuleType, dtype: torch.dtype = torch.float64, seed: int = 1) -> Any:
    """A model whose logits are of order one, so that tokens differ in more than rounding."""
    torch.manual_seed(seed)
    model = package.Model(package.Config(dtype=dtype))
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name.endswith("router_bias"):
                weight.normal_(std=0.1)
            elif weight.dim() > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            else:
                weight.normal_(1, 0.1)
    return model


def prompt(package: ModuleType, rows: int = 2, length: int = 9) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(package.Config.vocab_size, (rows, length), generator=draw)


def folder_of(package: ModuleType) -> Path:
    assert package.__file__ is not None
    return Path(package.__file__).parent


def buffers(cache: Any) -> list[torch.Tensor]:
    """Everything that a cache holds, in an order."""
    return [buffer for layer in cache.buffers for buffer in layer.values()]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Two ways to compute the same in float64 differ by rounding only."""
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
