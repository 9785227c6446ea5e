"""Pretrained encoders: which one a training starts from, and whether it fits. Needs no TensorFlow.

A pretrained encoder is a bundle, see `training.bundles.bundle_folder`, written by `pretrain_model` into a folder of its
own.
"""

from __future__ import annotations

import dataclasses

from features.core.contract import Contract
from features.core.errors import BundleError, SettingsError
from training.bundles.bundle_folder import read_manifest
from training.bundles.manifest import PRETRAIN, Manifest
from training.models import encoder_shape, with_encoders
from training.models.settings import ModelSettings
from training.settings.fitting import PretrainingSettings, TrainingSettings

_NOT_SEEN = {"tiers", "tier_rule", "horizon_days"}
"""Fields of a contract that no encoder depends on: one may serve several rules and horizons."""


def chosen(
    pretrained_uri: str, contract: Contract, model: ModelSettings, settings: TrainingSettings
) -> Manifest | None:
    """The pretrained encoder that a training starts from; None where the settings name none.

    Raises:
        BundleError: it is missing or damaged, was trained for other sequences or another network, or has seen
            sequences that are newer than the validation date.
    """
    if settings.pretrained is None:
        return None
    manifest = read_manifest(pretrained_uri, settings.pretrained, PRETRAIN)
    check_sequences(manifest, contract)
    problems = _other_encoder(manifest.model, model)
    newest = max(manifest.validation_date, *manifest.training_dates)
    if newest > settings.validation_as_of:
        problems.append(
            f"it has seen sequences as of {newest}, after training.validation_as_of {settings.validation_as_of}"
        )
    _refuse(manifest, problems, "pretrain one for these settings with pretrain_model, or choose training.pretrained")
    return manifest


def check_sequences(manifest: Manifest, contract: Contract) -> None:
    """Raise BundleError unless a pretrained encoder's encoding holds for sequences of this contract."""
    same = {field: getattr(manifest.contract, field) for field in _NOT_SEEN}
    differences = manifest.contract.differences(dataclasses.replace(contract, **same))
    _refuse(manifest, differences, "pretrain one for these sequences with pretrain_model, or choose another version")


def check_can_pretrain(model: ModelSettings, settings: PretrainingSettings) -> None:
    """Raise SettingsError unless the network has an encoder that can learn what the settings ask."""
    shape = encoder_shape(model.name)
    if shape is None:
        raise SettingsError([f"model.name: {model.name!r} has no encoder to pretrain; these have: {with_encoders()}"])
    if settings.next_event_weight and not shape.causal:
        raise SettingsError(
            [f"pretraining.next_event_weight: {model.name!r} sees later events, which is no forecast: set it to 0"]
        )


def _other_encoder(theirs: ModelSettings, mine: ModelSettings) -> list[str]:
    shape = encoder_shape(mine.name)
    if theirs.name != mine.name or shape is None:
        return [f"model.name: {theirs.name!r} against {mine.name!r}"]
    pairs = ((name, theirs.resolved()[name], mine.resolved()[name]) for name in shape.parameters)
    return [f"model.parameters.{name}: {one!r} against {other!r}" for name, one, other in pairs if one != other]


def _refuse(manifest: Manifest, problems: list[str], advice: str) -> None:
    if problems:
        listed = "\n".join(f"  - {line}" for line in problems)
        raise BundleError(f"pretrained encoder {manifest.version} does not fit:\n{listed}\n{advice}")
