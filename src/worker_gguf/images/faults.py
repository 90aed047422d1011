"""Why an image must not be decoded."""

from __future__ import annotations

__all__ = ["TRUNCATED", "ImageFault"]

TRUNCATED = "is cut off: its data ends before the image does."


class ImageFault(Exception):
    """The rest of a sentence whose subject is the image."""
