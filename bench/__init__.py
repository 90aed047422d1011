"""The worker's speed and memory beside the bare library: `python -m bench`. Nothing here is a test."""
