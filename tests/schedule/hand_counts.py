"""Published models counted by hand: parameters, cache and FLOPs from what was said of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Made:
    """A model's numbers, and what they add up to."""

    vocabulary: int
    hidden: int
    layers: int
    attention: int
    """Parameters of a layer's attention, norms apart."""
    gains: int
    """Of its norms: those of the layer, and of what it projects."""
    ends: int
    """Heads x (key's width + value's width)."""
    ends_in_decode: int
    """The same where all heads attend to what their keys and values are made of."""
    row: int
    """Numbers that a token leaves in a layer's cache."""
    dense: int = 0
    """Layers whose MLP is dense."""
    width: int = 0
    experts: int = 0
    top_k: int = 0
    inner: int = 0
    """Of an expert."""
    shared: int = 0
    """In expert widths."""
    bias: int = 0
    """Of the router."""

    @property
    def expert(self) -> int:
        return 3 * self.hidden * self.inner

    def parameters(self, experts: int) -> int:
        """With so many experts of each layer counted."""
        sparse = self.layers - self.dense
        router = self.experts * self.hidden + self.bias
        mlps = self.dense * 3 * self.hidden * self.width
        mlps += sparse * (router + (experts + self.shared) * self.expert)
        layers = self.layers * (self.attention + self.gains)
        return 2 * self.vocabulary * self.hidden + layers + mlps + self.hidden

    def flops(self, context: int) -> int:
        """Of decoding one token: two for every weight that multiplies, and attention."""
        gains = self.layers * self.gains + self.hidden + (self.layers - self.dense) * self.bias
        weights = self.parameters(self.top_k) - self.vocabulary * self.hidden - gains
        return 2 * weights + self.layers * 2 * context * self.ends_in_decode


def grouped(hidden: int, heads: int, kv_heads: int, width: int) -> dict[str, int]:
    return {
        "attention": hidden * width * (2 * heads + 2 * kv_heads),
        "gains": 2 * hidden,
        "ends": heads * 2 * width,
        "ends_in_decode": heads * 2 * width,
        "row": kv_heads * 2 * width,
    }


def latent(hidden: int, heads: int, query: int | None) -> dict[str, int]:
    """DeepSeek's attention: a latent of 512, keys of 128 + 64, values of 128."""
    asks = hidden * heads * 192 if query is None else query * (hidden + heads * 192)
    keys = hidden * (512 + 64) + 512 * heads * (128 + 128)
    return {
        "attention": asks + keys + heads * 128 * hidden,
        "gains": 2 * hidden + 512 + (query or 0),
        "ends": heads * (192 + 128),
        "ends_in_decode": heads * (512 + 64 + 512),
        "row": 512 + 64,
    }


QWEN = grouped(2048, 32, 4, 128)
MODELS = {
    "llama-3-8b": Made(128256, 4096, 32, dense=32, width=14336, **grouped(4096, 32, 8, 128)),
    "deepseek-67b": Made(102400, 8192, 95, dense=95, width=22016, **grouped(8192, 64, 8, 128)),
    "mixtral-8x7b": Made(
        32000, 4096, 32, experts=8, top_k=2, inner=14336, **grouped(4096, 32, 8, 128)
    ),
    "qwen3-30b-a3b": Made(
        *(151936, 2048, 48),
        **{**QWEN, "gains": QWEN["gains"] + 2 * 128},
        experts=128,
        top_k=8,
        inner=768,
    ),
    "deepseek-v2-lite": Made(
        *(102400, 2048, 27),
        **latent(2048, 16, None),
        dense=1,
        width=10944,
        experts=64,
        top_k=6,
        inner=1408,
        shared=2,
    ),
    "deepseek-v2": Made(
        *(102400, 5120, 60),
        **latent(5120, 128, 1536),
        dense=1,
        width=12288,
        experts=160,
        top_k=6,
        inner=1536,
        shared=2,
    ),
    "deepseek-v3": Made(
        *(129280, 7168, 61),
        **latent(7168, 128, 1536),
        dense=3,
        width=18432,
        experts=256,
        top_k=8,
        inner=2048,
        shared=1,
        bias=256,
    ),
}
