"""Measures the routes beside chat completions."""
