"""Hugging Face model families: what a configuration and its checkpoint's names become."""
