"""worker-gguf: any GGUF model, served on RunPod Serverless."""

__version__ = "0.1.0"
