"""The dialects of the API: bodies, answers, errors. Independent of HTTP frameworks, RunPod and llama.cpp."""
