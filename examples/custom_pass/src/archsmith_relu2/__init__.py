"""A squared-ReLU MLP for archsmith: component, op, kernel and pass."""
