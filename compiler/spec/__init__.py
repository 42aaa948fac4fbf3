"""What a user writes: YAML with positions, its schema, and the diagnostics of its mistakes."""
