"""The framework, from a spec to a package; it names no model, pass or kernel."""
