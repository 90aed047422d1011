"""Creates, updates and removes a deployment on RunPod Serverless. Used by the command line alone, never by a worker."""
