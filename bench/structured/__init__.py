"""Measures structured output and tool calls of a running worker, with a peer beside it."""
