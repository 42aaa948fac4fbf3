"""From ops to kernels: what a kernel is, and which one computes each op of a plan."""
