"""What a spec may name: each component builds its part of a block's graph."""
