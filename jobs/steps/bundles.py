"""The bundle that a run uses: found, read and checked once, then the same one for every date."""

from __future__ import annotations

from jobs.running.job import Job
from training.bundles.bundle_folder import read_manifest
from training.bundles.manifest import PRETRAIN, Manifest, check_fits


def scoring_bundle(job: Job, version: str | None = None) -> Manifest:
    """The manifest of a bundle that fits the settings.

    Args:
        job: the open job.
        version: of the bundle; None: as `scoring.model_version` says.

    Raises:
        BundleError: there is none, it is damaged, or it was trained for another contract.
    """
    settings = job.settings
    chosen = version or settings.scoring.model_version
    manifest = job.once(("bundle", chosen), lambda: read_manifest(settings.storage.models, chosen))
    check_fits(manifest, settings.contract, settings.scoring.outputs)
    return manifest


def pretrained_encoder(job: Job) -> Manifest:
    """The manifest of the encoder that `pretraining.version` names."""
    settings = job.settings
    version = settings.pretraining.version
    return job.once(("encoder", version), lambda: read_manifest(settings.storage.pretrained, version, PRETRAIN))
