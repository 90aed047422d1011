"""The dialects of the API: bodies, answers, errors. It has nothing of HTTP frameworks, RunPod or llama.cpp."""
