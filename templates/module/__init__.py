"""Templates of the PyTorch package."""
