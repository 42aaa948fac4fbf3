"""The built-in passes, one a file; `pipelines.yaml` gives their order."""
