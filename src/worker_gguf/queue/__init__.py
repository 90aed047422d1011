"""The worker on RunPod's queue, through RunPod's SDK."""
