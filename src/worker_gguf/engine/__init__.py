"""The engine: schedules many requests through one model, reuses prefixes, assembles text. Knows nothing of llama.cpp or
HTTP.
"""
