"""Hugging Face model families: what a configuration's fields become, and what its checkpoint calls its tensors."""
