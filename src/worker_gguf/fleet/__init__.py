"""Several models in one worker: which are loaded, which requests wait, and which model to unload next."""
