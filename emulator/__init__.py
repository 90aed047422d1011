"""A stand-in for RunPod's queue on this machine: real workers with the real SDK on one side, clients on the other.

Written from the SDK's source (1.12) and the platform's documentation. Nothing here is needed to serve a model.
"""

from emulator.rules import Rules
from emulator.running import RunningEmulator, start

__all__ = ["Rules", "RunningEmulator", "start"]
