"""The framework: from a spec to a graph, through passes, to a package; it names no model, pass or kernel."""
