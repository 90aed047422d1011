"""The check of a worker on a machine with a GPU: `make gpu-bundle` and `make gpu-check` (docs/gpu.md)."""
