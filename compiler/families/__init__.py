"""Hugging Face model families: what their fields become, and what their tensors are called."""
