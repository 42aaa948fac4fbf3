"""Targets: what the compiler must know of a chip, as data."""
