"""Passes: what one is, the pattern engine, pipelines, and the checker that proves each use."""
