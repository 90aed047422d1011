"""Images that clients send: what a file says of itself, read without decoding it, and whether it may be decoded."""

from __future__ import annotations

from worker_gguf.images.check import ImageBounds, ImageInfo, check_content, check_image

__all__ = ["ImageBounds", "ImageInfo", "check_content", "check_image"]
