"""Kernel families: when each applies, beside the template of its text."""
