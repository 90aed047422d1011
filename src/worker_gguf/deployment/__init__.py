"""Creates, updates and removes a deployment on RunPod Serverless. Only the command line uses it, not a worker."""
