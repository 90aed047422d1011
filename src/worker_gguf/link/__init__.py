"""What the worker process and an engine process say to each other: messages, their channel, and the process itself.

Knows nothing of requests' texts, HTTP or llama.cpp.
"""
