"""The dialects of the API: bodies, answers, errors. Knows nothing of HTTP frameworks, RunPod or llama.cpp."""
