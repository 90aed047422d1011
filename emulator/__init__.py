"""A stand-in for RunPod's queue on this machine: real workers with the real SDK on one side, clients on the other.

Written from the SDK's source (1.12) and the platform's documentation. Nothing here is needed to serve a model.
"""

from worker_gguf.emulator.rules import Rules
from worker_gguf.emulator.running import RunningEmulator, start

__all__ = ["Rules", "RunningEmulator", "start"]
