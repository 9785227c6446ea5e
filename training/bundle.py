"""Model bundles: `models/VERSION/{model.keras, manifest.json}`, and `models/latest.json` that names a published one.

Files are written first, then the manifest with their checksums; once the model is judged, the manifest with its
calibration, profile and verdict, and only then the pointer, if it is published: a bundle is there whole or not at all.
Reading a manifest needs no TensorFlow; only `load_model` does.

Bundles of pretrained encoders are the same, in a folder of their own: nothing judges them, the newest is `latest`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from features import uri
from features.contract import Contract
from features.errors import BundleError, DateError
from training.calibration import Calibration
from training.drift import Profile
from training.models import further_outputs
from training.settings import ModelSettings
from training.tensors import Encoding
from training.verdict import Verdict

FORMAT = 4
"""Raised when the meaning of a manifest changes."""

LATEST = "latest"
TRAIN, PRETRAIN = "train_model", "pretrain_model"
_CHOSEN_BY = {TRAIN: "scoring.model_version", PRETRAIN: "training.pretrained"}
"""The jobs that write bundles, and the setting that names one."""
MODEL_FILE = "model.keras"
_MANIFEST_FILE = "manifest.json"
_LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "numpy", "pyarrow", "pyspark")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that scoring and evaluation need to know of a model beside its weights.

    Attributes:
        version: name of the bundle.
        contract: of the sequences that it was trained on, tier rule included.
        encoding: vocabulary and normalisation.
        model: name and all parameters of the network.
        training_dates: as-of dates of the training rows.
        validation_date: as-of date of the rows that chose the epoch.
        metrics: figures of the training: rows, validation loss and accuracy, best epoch, difference between ranks.
        history: one entry per epoch, of an ensemble the networks' one after the other.
        provenance: Delta versions of the inputs, identity of the rows, all settings.
        libraries: versions of what trained it.
        created_at: UTC, ISO 8601.
        files: SHA-256 of each file.
        calibration: what mends the network's probabilities; fitted once the bundle is written.
        profile: what later dates are compared with to find drift; None until it is judged.
        verdict: whether it is published, and why not; None until it is judged.
        candidate: the bundle whose epochs it was trained for, that was judged in its place, and to which the figures of
            validation and the history belong; None: it is that itself. See `training.refit`.
        job: what wrote it, `TRAIN` or `PRETRAIN`.
        format: `FORMAT` at the time of writing.
    """

    version: str
    contract: Contract
    encoding: Encoding
    model: ModelSettings
    training_dates: tuple[dt.date, ...]
    validation_date: dt.date
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    provenance: Mapping[str, Any]
    libraries: Mapping[str, str]
    created_at: str
    files: Mapping[str, str]
    calibration: Calibration
    profile: Profile | None = None
    verdict: Verdict | None = None
    candidate: str | None = None
    job: str = TRAIN
    format: int = FORMAT

    def to_json(self) -> str:
        """Text form, the inverse of `from_json`."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain |= {
            "contract": self.contract.to_dict(),
            "encoding": self.encoding.to_dict(),
            "model": self.model.model_dump(mode="json"),
            "calibration": self.calibration.to_dict(),
            "profile": self.profile.to_dict() if self.profile else None,
            "verdict": self.verdict.to_dict() if self.verdict else None,
        }
        return json.dumps(plain, indent=1, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Rebuild from `to_json`; raises ValueError, KeyError or TypeError on anything else."""
        stored = json.loads(text)
        stored |= {
            "contract": Contract.from_dict(stored["contract"]),
            "encoding": Encoding.from_dict(stored["encoding"]),
            "model": ModelSettings(**stored["model"]),
            "training_dates": tuple(map(dt.date.fromisoformat, stored["training_dates"])),
            "validation_date": dt.date.fromisoformat(stored["validation_date"]),
            "calibration": Calibration.from_dict(stored["calibration"]),
            "profile": Profile.from_dict(stored["profile"]) if stored["profile"] else None,
            "verdict": Verdict.from_dict(stored["verdict"]) if stored["verdict"] else None,
        }
        return cls(**stored)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a bundle depends on, of those installed."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {name: installed[name] for name in _LIBRARIES if name in installed}


def write_bundle(models_uri: str, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
    """Write a bundle that is not judged yet; returns the manifest with the checksums of the files.

    Raises:
        StorageError: `models_uri` cannot be written; no bundle is there then.
    """
    folder = uri.join(models_uri, manifest.version)
    for name, content in contents.items():
        uri.write_bytes(uri.join(folder, name), content)
    whole = dataclasses.replace(manifest, files={name: _sha256(content) for name, content in contents.items()})
    uri.write_bytes(uri.join(folder, _MANIFEST_FILE), whole.to_json().encode())
    return whole


def settle(
    models_uri: str, manifest: Manifest, calibration: Calibration, profile: Profile | None, verdict: Verdict | None
) -> Manifest:
    """Write a bundle's calibration, profile and verdict; the new manifest. Without a verdict it stays unjudged."""
    judged = dataclasses.replace(manifest, calibration=calibration, profile=profile, verdict=verdict)
    uri.write_bytes(uri.join(models_uri, manifest.version, _MANIFEST_FILE), judged.to_json().encode())
    return judged


def published(models_uri: str) -> Manifest | None:
    """The manifest that `latest` names, or None where no model is published yet."""
    return read_manifest(models_uri, LATEST) if uri.exists(uri.join(models_uri, f"{LATEST}.json")) else None


def point_latest(models_uri: str, version: str) -> None:
    """Let `latest` name a version; nothing is written if it does already."""
    content = json.dumps({"version": version}).encode()
    pointer = uri.join(models_uri, f"{LATEST}.json")
    if not uri.exists(pointer) or uri.read_bytes(pointer) != content:
        uri.write_bytes(pointer, content)


def read_manifest(models_uri: str, version: str, job: str = TRAIN) -> Manifest:
    """The manifest of a whole bundle, its files compared with their checksums.

    Args:
        models_uri: where bundles lie.
        version: a version, or `latest`.
        job: what writes such bundles.

    Raises:
        BundleError: there is no such bundle, or it is damaged, or of another format.
    """
    version = _latest(models_uri, job) if version == LATEST else version
    folder = uri.join(models_uri, version)
    try:
        text = uri.read_bytes(uri.join(folder, _MANIFEST_FILE))
    except FileNotFoundError:
        raise BundleError(
            f"there is no whole bundle {version!r} under {models_uri}: run {job} first, or choose another "
            f"{_CHOSEN_BY[job]}"
        ) from None
    manifest = _parsed(text, folder, job)
    if MODEL_FILE not in manifest.files:
        raise BundleError(f"bundle {folder} lists no {MODEL_FILE}: {_retrain(folder, job)}")
    for name in manifest.files:
        read_file(models_uri, manifest, name)
    return manifest


def read_file(models_uri: str, manifest: Manifest, name: str) -> bytes:
    """A file of a bundle; raises BundleError if it is missing or not what was written."""
    address = uri.join(models_uri, manifest.version, name)
    again = _retrain(uri.join(models_uri, manifest.version), manifest.job)
    try:
        content = uri.read_bytes(address)
    except FileNotFoundError:
        raise BundleError(f"{address} is missing: {again}") from None
    if (found := _sha256(content)) != manifest.files[name]:
        raise BundleError(
            f"{address} is damaged: its SHA-256 is {found[:12]}..., the manifest says {manifest.files[name][:12]}...; "
            f"{again}"
        )
    return content


def load_model(models_uri: str, manifest: Manifest) -> Any:
    """The Keras model of a bundle, loaded in safe mode; raises BundleError if it is damaged or cannot be loaded."""
    import keras

    import training.models.gru
    import training.models.joining  # noqa: F401  (both register all layers)

    content = read_file(models_uri, manifest, MODEL_FILE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        path.write_bytes(content)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError) as error:
            raise BundleError(
                f"model of bundle {manifest.version} was made with {dict(manifest.libraries)} and cannot be loaded "
                f"with {library_versions()}: {str(error).splitlines()[0]}"
            ) from error


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


def _latest(models_uri: str, job: str) -> str:
    pointer = uri.join(models_uri, f"{LATEST}.json")
    try:
        return str(json.loads(uri.read_bytes(pointer))["version"])
    except FileNotFoundError:
        refused = ", or name a refused one as scoring.model_version" if job == TRAIN else ""
        raise BundleError(f"no model is published under {models_uri}: run {job} first{refused}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{pointer} does not name a version ({error}): run {job} again") from error


def _parsed(text: bytes, folder: str, job: str) -> Manifest:
    try:
        found = json.loads(text).get("format")
    except (ValueError, AttributeError) as error:
        raise BundleError(f"manifest of bundle {folder} is damaged ({error}): {_retrain(folder, job)}") from error
    if found != FORMAT:
        raise BundleError(
            f"bundle {folder} has format {found} and this release reads {FORMAT}: {_retrain(folder, job)}"
        )
    try:
        return Manifest.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"manifest of bundle {folder} is damaged ({error!r}): {_retrain(folder, job)}") from error


def _retrain(folder: str, job: str) -> str:
    return f"delete {folder} and run {job} again, or choose another {_CHOSEN_BY[job]}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
