"""The queue interface: RunPod's SDK."""
