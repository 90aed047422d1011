"""Measures the processor time that the worker process needs for a streamed token."""
