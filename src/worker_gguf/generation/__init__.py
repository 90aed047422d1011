"""The worker's side of an engine: requests in, texts out, and what happens when its process ends.

Knows nothing of llama.cpp, HTTP or templates.
"""
