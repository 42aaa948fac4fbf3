"""Checkpoints into a package's own layout, back again, and proved whole."""
