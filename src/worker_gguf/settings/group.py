"""The base of the groups of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Group"]


class Group(BaseModel):
    """A part of Settings. Pydantic builds no validator for it, which would take 15 ms and is not needed."""

    model_config = ConfigDict(defer_build=True)
