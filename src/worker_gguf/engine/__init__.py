"""Many requests through one model: scheduling, prefix reuse, text assembly. Knows nothing of llama.cpp or HTTP."""
