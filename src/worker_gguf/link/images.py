"""The images of a request on their way to the engine process: in a file in memory, whose descriptor is sent.

So the engine's loop, which reads the messages, never reads megabytes while others wait for their tokens.
"""

from __future__ import annotations

import os

from msgspec.structs import replace

from worker_gguf.link.messages import Add

__all__ = ["packed", "unpacked"]


def packed(command: Add) -> tuple[Add, int]:
    """Return the command without its images, and the descriptor of a file with them, which the caller closes."""
    images = command.request.images
    fd = os.memfd_create("images", os.MFD_CLOEXEC)
    try:
        for image in images:
            rest = memoryview(image)
            while rest:
                rest = rest[os.write(fd, rest) :]
    except BaseException:
        os.close(fd)
        raise
    sizes = tuple(map(len, images))
    return replace(command, request=replace(command.request, images=()), image_sizes=sizes), fd


def unpacked(command: Add, fd: int) -> Add:
    """Return the command with its images, and close the descriptor that came with it."""
    try:
        at = 0
        images: list[bytes] = []
        for size in command.image_sizes:
            images.append(os.pread(fd, size, at))
            at += size
    finally:
        os.close(fd)
    return replace(command, request=replace(command.request, images=tuple(images)), image_sizes=())
