"""Settings of the network."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from features.core.contract import TARGET
from features.core.strict import Strict
from training.models import REGISTRY, parameters_class


class ModelSettings(Strict):
    """Which network is used, and its sizes."""

    name: str = Field(description=f"name of the network: {', '.join(REGISTRY)}")
    parameters: dict[str, int | float | str | bool] = Field(
        {}, description="parameters of the network that differ from its defaults"
    )
    targets: tuple[Annotated[str, Field(pattern=TARGET)], ...] = Field(
        (), description="names of `horizon.targets` that the network also learns to forecast"
    )

    @model_validator(mode="after")
    def _parameters_fit_the_model(self) -> ModelSettings:
        if self.name not in REGISTRY:
            raise ValueError(f"there is no model {self.name!r}; there are {sorted(REGISTRY)}")
        try:
            parameters_class(self.name)(**self.parameters)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or self.name}: {e['msg']}" for e in error.errors())
            raise ValueError(f"parameters of model {self.name!r}: {found}") from None
        return self

    def resolved(self) -> dict[str, Any]:
        """All parameters of the model, defaults included."""
        return parameters_class(self.name)(**self.parameters).model_dump()
