"""Types that several settings share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Seconds = Annotated[int, Field(ge=1, le=86_400)]

Weights = Literal["equal", "by_user"]
