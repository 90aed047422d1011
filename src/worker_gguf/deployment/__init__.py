"""Creates, updates and removes a deployment on RunPod Serverless. Used by the command line only, not by a worker."""
