"""OpenAI's shapes, read and written; chat templates. Knows nothing of HTTP frameworks, RunPod or llama.cpp."""
