"""Several models in one worker: which models are in memory, which requests wait, and which models to unload."""
