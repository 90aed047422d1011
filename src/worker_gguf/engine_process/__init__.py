"""What runs in an engine process: the commands of the worker process, and the loop that serves requests.

Knows nothing of texts, templates or HTTP.
"""
