"""What every part of the settings is made of. Knows nothing of the environment."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Group"]


class Group(BaseModel):
    """A part of Settings. Nobody makes one alone, so pydantic need not build what validates it: that takes 15 ms."""

    model_config = ConfigDict(defer_build=True)
