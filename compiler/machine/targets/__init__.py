"""The built-in targets, one YAML file a chip."""
