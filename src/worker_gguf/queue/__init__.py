"""The queue door: RunPod's SDK."""
