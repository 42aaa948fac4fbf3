"""What is emitted: kernel families and the PyTorch package around them."""
