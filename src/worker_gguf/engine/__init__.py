"""Runs many requests through one model: schedules them, reuses shared prefixes and assembles text.

Knows nothing of llama.cpp or HTTP.
"""
