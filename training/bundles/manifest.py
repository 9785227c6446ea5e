"""The manifest of a bundle: what it was trained on, how it was judged, and what it may score."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from features.core.contract import Contract
from features.core.errors import BundleError, DateError
from training.inputs.encoding import Encoding
from training.judging.calibration import Calibration
from training.judging.drift import Profile
from training.judging.verdict import Verdict
from training.models import further_outputs
from training.models.settings import ModelSettings

FORMAT = 4
"""Raised when the meaning of a manifest changes."""

TRAIN, PRETRAIN = "train_model", "pretrain_model"

StoredProfile = Annotated[Profile, BeforeValidator(Profile.from_dict), PlainSerializer(Profile.to_dict)]


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a training leaves: all that is known of a network beside its weights before it is judged.

    Attributes:
        version: name of the bundle.
        contract: of the sequences that it was trained on, tier rule included.
        encoding: vocabulary and normalisation.
        model: name and all parameters of the network.
        training_dates: as-of dates of the training rows.
        validation_date: as-of date of the rows that chose the epoch.
        metrics: figures of the training: rows, validation loss and accuracy, best epoch, difference between ranks.
        history: one entry per epoch; of an ensemble, those of one network after the other. `member` is the network's
            number, from 1.
        provenance: Delta versions of the inputs, identity of the rows, all settings.
        libraries: versions of what trained it.
        created_at: UTC, ISO 8601.
        files: SHA-256 of each file.
    """

    version: str
    contract: Contract
    encoding: Encoding
    model: ModelSettings
    training_dates: tuple[dt.date, ...]
    validation_date: dt.date
    metrics: Mapping[str, int | float]
    history: Sequence[Mapping[str, int | float]]
    provenance: Mapping[str, Any]
    libraries: Mapping[str, str]
    created_at: str
    files: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Manifest(TrainedNetwork):
    """All that scoring and evaluation need to know of a model beside its weights.

    Attributes:
        calibration: corrects the network's probabilities; fitted once the bundle is written.
        profile: what later dates are compared with to find drift; None until it is judged.
        verdict: whether it is published, and why not; None until it is judged.
        candidate: version of the bundle that was judged in its place and chose its epochs, and to which the figures of
            validation and the history belong; None unless it is a refit. See `training.refit`.
        job: what wrote it, `TRAIN` or `PRETRAIN`.
        format: `FORMAT` at the time of writing.
    """

    calibration: Calibration
    profile: StoredProfile | None = None
    verdict: Verdict | None = None
    candidate: str | None = None
    job: str = TRAIN
    format: int = FORMAT

    def to_json(self) -> str:
        """Text form, the inverse of `from_json`."""
        return json.dumps(TypeAdapter(Manifest).dump_python(self, mode="json"), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Rebuild from `to_json`; raises ValidationError, KeyError or TypeError on anything else."""
        return TypeAdapter(cls).validate_json(text)


def check_fits(manifest: Manifest, contract: Contract, outputs: Sequence[str] = ()) -> None:
    """Raise BundleError, naming both sides of each difference, unless the bundle was trained for this contract.

    And unless its network gives the further `outputs` of `scoring.outputs`.
    """
    differences = manifest.contract.differences(contract)
    if differences:
        listed = "\n".join(f"  - {line}" for line in differences)
        raise BundleError(
            f"bundle {manifest.version} was trained for contract {manifest.contract.id} and the settings ask for "
            f"{contract.id}:\n{listed}\ntrain a model for these settings, or choose scoring.model_version"
        )
    given = further_outputs(manifest.model.name, manifest.model.targets)
    absent = [name for name in outputs if name not in given]
    if absent:
        raise BundleError(
            f"scoring.outputs asks for {', '.join(absent)}, which bundle {manifest.version} does not forecast; beside "
            f"the tier it gives {', '.join(given) or 'nothing'}: train with them in model.targets, or leave them out"
        )


def check_no_overlap(manifest: Manifest, as_of: dt.date) -> None:
    """Raise DateError unless all outcome windows that the training saw end on or before `as_of`."""
    seen = {*manifest.training_dates, manifest.validation_date}
    horizon = dt.timedelta(days=manifest.contract.horizon_days)
    late = sorted(date for date in seen if date + horizon > as_of)
    if late:
        raise DateError(
            f"model {manifest.version} has seen outcomes up to {late[-1] + horizon} (as-of dates "
            f"{', '.join(map(str, late))} with a horizon of {horizon.days} days), which lies after the evaluated as-of "
            f"date {as_of}: evaluate on a later date, or train on earlier ones"
        )
