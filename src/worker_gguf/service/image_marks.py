"""Puts marks in the place of images in a conversation, and finds them again in the text that a template made of it.

Most templates know only texts, and others write the names of tokens that the projector puts around an image itself. So
each image is a text for the template, as in llama-server.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_gguf.errors import TemplateError
from worker_gguf.protocol.images import image_in

__all__ = ["MEDIA", "ImageMarks"]

MEDIA: Final = "<__media__>"
"""What a prompt that is shown as text has in the place of an image, as in llama-server."""
_LENGTH: Final = 16

Message = Mapping[str, Any]


class ImageMarks:
    """The marks of one conversation.

    They are letters and digits, which no template changes, and have a random part, which no text of a user has.
    """

    def __init__(self) -> None:
        self._start = f"image{secrets.token_hex(_LENGTH)}n"
        self._pattern = re.compile(rf"{self._start}(\d+)z")
        self._n_images = 0

    def put(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with each content that has images as one text."""
        return [self._marked(message) for message in messages]

    def split(self, text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the texts around the images in a prompt, and the places of these images in the conversation.

        Raises TemplateError if the template has left out an image or repeated one.
        """
        texts = self._pattern.split(text)
        images = tuple(map(int, texts[1::2]))
        if sorted(images) != list(range(self._n_images)):
            raise TemplateError(
                f"This model's chat template keeps {len(images)} of the {self._n_images} images in this conversation. "
                "Send images only in messages of the user, or set CHAT_TEMPLATE to another.",
                param="messages",
            )
        return tuple(texts[::2]), images

    def _marked(self, message: Message) -> Message:
        content = message.get("content")
        if not isinstance(content, list) or not any(image_in(part) is not None for part in content):
            return message
        return {**message, "content": self._joined(content)}

    def _joined(self, content: Sequence[Mapping[str, Any]]) -> str:
        """Join parts as llama-server does: with a new line between two texts, and none beside an image."""
        joined = ""
        after_text = False
        for part in content:
            if image_in(part) is not None:
                joined += f"{self._start}{self._n_images}z"
                self._n_images += 1
                after_text = False
                continue
            joined += "\n" if after_text and joined else ""
            joined += part.get("text") or part.get("refusal") or ""
            after_text = True
        return joined
