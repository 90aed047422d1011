"""Many requests at once, from a file or a list: for the command `worker-gguf batch` and for jobs of the queue."""
