"""worker-gguf serves GGUF models on RunPod Serverless."""

__version__ = "0.1.0"
