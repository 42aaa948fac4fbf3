"""`transformers` as an exact oracle: models that compute in float64 throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Float64(TorchFunctionMode):
    """Replace every float32 that a call asks for by float64.

    Modelling code casts to float32 inside norms, rotary embeddings and routers, whatever the
    dtype of the model. Under this mode those casts go to float64, when a model is made (the rotary
    frequencies) as well as when it runs; without it they cost 1e-7.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        named = {name: widened(value) for name, value in (kwargs or {}).items()}
        return func(*map(widened, args), **named)


def widened(value: Any) -> Any:
    """Return float64 for float32, anything else as it is."""
    return torch.float64 if value is torch.float32 else value


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the float64 logits [B, T, vocab] of `tokens`, int64 [B, T]."""
    with torch.no_grad(), Float64():
        result: torch.Tensor = model(tokens, use_cache=False).logits
    return result
