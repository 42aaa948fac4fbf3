"""Specs of models in which attention has a window, in all layers or in some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPEC = """\
archsmith: 1
name: windowed
dtype: float64
vocab_size: 61
hidden_size: 20
max_positions: 512
layers: [{layers}]
blocks: {{{blocks}}}
parts:
  {parts}
  rms: {{kind: rms_norm, eps: 1.0e-6}}
  mlp: {{kind: swiglu, width: 28}}
final_norm: rms
head: {{tied: true}}
"""
PARTS = {
    "local": "{kind: gqa, heads: 4, kv_heads: 2, head_dim: 6, rope: ROPE, window: WINDOW}",
    "whole": "{kind: gqa, heads: 4, kv_heads: 1, head_dim: 10, rope: ROPE}",
    "capped": "{kind: gqa, heads: 4, kv_heads: 2, head_dim: 6, rope: ROPE, window: WINDOW,"
    " softcap: 20.0}",
    "sinks": "{kind: gqa, heads: 4, kv_heads: 2, head_dim: 6, rope: ROPE, window: WINDOW,"
    " sinks: true, softcap: 20.0}",
}
NEAR_ROW, FAR_ROW = 8 * 2 * (2 * 6), 8 * 2 * (1 * 10)  # bytes that a token leaves in a layer


@dataclass(frozen=True)
class Kind:
    """A model: its window, and the attention of each of its blocks, in the order of its layers."""

    window: int
    blocks: tuple[tuple[str, ...], ...] = (("local",), ("local",))

    @property
    def far(self) -> int:
        """How many times the model attends to the whole context."""
        return sum(block.count("whole") for block in self.blocks)

    @property
    def spec(self) -> str:
        def steps(parts: tuple[str, ...]) -> str:
            return ", ".join(f"{{norm: rms, use: {part}}}" for part in (*parts, "mlp"))

        blocks = {"_".join(parts): f"[{steps(parts)}]" for parts in self.blocks}
        used = dict.fromkeys(part for parts in self.blocks for part in parts)
        rope = "{theta: 10000, interleaved: false}"
        lines = [f"{name}: {PARTS[name]}" for name in used]
        text = SPEC.format(
            layers=", ".join(f"{{repeat: 1, block: {'_'.join(parts)}}}" for parts in self.blocks),
            blocks=", ".join(f"{name}: {block}" for name, block in blocks.items()),
            parts="\n  ".join(lines),
        )
        return text.replace("ROPE", rope).replace("WINDOW", str(self.window))


KINDS = {
    "window_1": Kind(1),
    "window_2": Kind(2),
    "window_5": Kind(5),
    "window_20": Kind(20),
    "window_500": Kind(500),  # longer than any text
    "step_by_step": Kind(5, (("sinks",), ("sinks",))),
    "alternating": Kind(5, (("local",), ("whole",), ("local",))),
    "in_one_block": Kind(3, (("capped", "whole"),)),
}


def write_spec(path: Path, kind: str) -> Path:
    path.write_text(KINDS[kind].spec)
    return path
