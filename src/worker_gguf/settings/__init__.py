"""The settings of a worker: one frozen object, read once from the environment."""

from worker_gguf.settings.settings import RUNPOD_VOLUME, Settings

__all__ = ["RUNPOD_VOLUME", "Settings"]
