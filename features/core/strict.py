"""Base class of all settings, and their types of names, counts, shares and days."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=1, le=36_500)]


class Strict(BaseModel):
    """Base of settings: unknown keys are rejected, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
