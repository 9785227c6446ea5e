"""Model bundles: `models/VERSION/{model.keras, manifest.json}`, and `models/latest.json` that names a published one.

Files are written first, then the manifest with their checksums; once the model is judged, the manifest with its
calibration, profile and verdict, and only then the pointer, if it is published: a bundle is there whole or not at all.
Reading a manifest needs no TensorFlow; only `load_model` does.

Bundles of pretrained encoders are the same, in a folder of their own: nothing judges them, the newest is `latest`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from features.core import places
from features.core.errors import BundleError
from training.bundles.manifest import FORMAT, PRETRAIN, TRAIN, Manifest
from training.judging.calibration import Calibration
from training.judging.drift import Profile
from training.judging.verdict import Verdict

LATEST = "latest"

_CHOSEN_BY = {TRAIN: "scoring.model_version", PRETRAIN: "training.pretrained"}
"""The jobs that write bundles, and the setting that names one."""
MODEL_FILE = "model.keras"
_MANIFEST_FILE = "manifest.json"
_LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "numpy", "pyarrow", "pyspark")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a bundle depends on, of those installed."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {name: installed[name] for name in _LIBRARIES if name in installed}


def write_bundle(models_uri: str, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
    """Write a bundle that is not judged yet; returns the manifest with the checksums of the files.

    Raises:
        StorageError: `models_uri` cannot be written; no bundle is there then.
    """
    folder = places.join(models_uri, manifest.version)
    for name, content in contents.items():
        places.write_bytes(places.join(folder, name), content)
    whole = dataclasses.replace(manifest, files={name: _sha256(content) for name, content in contents.items()})
    places.write_bytes(places.join(folder, _MANIFEST_FILE), whole.to_json().encode())
    return whole


def settle(
    models_uri: str, manifest: Manifest, calibration: Calibration, profile: Profile | None, verdict: Verdict | None
) -> Manifest:
    """Write a bundle's calibration, profile and verdict; the new manifest. Without a verdict it stays unjudged."""
    judged = dataclasses.replace(manifest, calibration=calibration, profile=profile, verdict=verdict)
    places.write_bytes(places.join(models_uri, manifest.version, _MANIFEST_FILE), judged.to_json().encode())
    return judged


def published(models_uri: str) -> Manifest | None:
    """The manifest that `latest` names, or None where no model is published yet."""
    return read_manifest(models_uri, LATEST) if places.exists(places.join(models_uri, f"{LATEST}.json")) else None


def point_latest(models_uri: str, version: str) -> None:
    """Let `latest` name a version; nothing is written if it does already."""
    content = json.dumps({"version": version}).encode()
    pointer = places.join(models_uri, f"{LATEST}.json")
    if not places.exists(pointer) or places.read_bytes(pointer) != content:
        places.write_bytes(pointer, content)


def read_manifest(models_uri: str, version: str, job: str = TRAIN) -> Manifest:
    """The manifest of a whole bundle, once its files have been compared with their checksums.

    Args:
        models_uri: where bundles lie.
        version: a version, or `latest`.
        job: what writes such bundles.

    Raises:
        BundleError: there is no such bundle, or it is damaged, or of another format.
    """
    version = _latest(models_uri, job) if version == LATEST else version
    folder = places.join(models_uri, version)
    try:
        text = places.read_bytes(places.join(folder, _MANIFEST_FILE))
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
    address = places.join(models_uri, manifest.version, name)
    again = _retrain(places.join(models_uri, manifest.version), manifest.job)
    try:
        content = places.read_bytes(address)
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
    import training.models.joined_network  # noqa: F401  (both register all layers)

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


def _latest(models_uri: str, job: str) -> str:
    pointer = places.join(models_uri, f"{LATEST}.json")
    try:
        return str(json.loads(places.read_bytes(pointer))["version"])
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
    except (ValidationError, KeyError, TypeError) as error:
        problems = repr(error)
        if isinstance(error, ValidationError):
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleError(f"manifest of bundle {folder} is damaged ({problems}): {_retrain(folder, job)}") from error


def _retrain(folder: str, job: str) -> str:
    return f"delete {folder} and run {job} again, or choose another {_CHOSEN_BY[job]}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
