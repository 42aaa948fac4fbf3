"""A squared-ReLU MLP for archsmith: component, op, kernels and pass."""

ARCHSMITH_API = 1
