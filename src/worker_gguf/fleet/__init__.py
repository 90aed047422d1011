"""Several models in one worker: which are in memory, who waits for which, and what to unload."""
