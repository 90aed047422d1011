"""The speed and memory of the worker, compared with the bare library: `python -m bench`. Nothing here is a test."""
