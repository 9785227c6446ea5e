"""A small bundle, saved as a training leaves it."""

from __future__ import annotations

from pathlib import Path

from tests.data.training_examples import CONTRACT, SMALL, encoding_of, example_rows, manifest_of
from training.bundles import bundle_folder
from training.bundles.bundle_folder import MODEL_FILE
from training.bundles.manifest import Manifest
from training.models.create import build_model

ROWS = example_rows(130, 3)


def saved_bundle(models: str, name: str, networks: int = 1) -> Manifest:
    manifest = manifest_of(CONTRACT, encoding_of(ROWS), name, SMALL[name])
    path = Path(models) / "made.keras"
    path.parent.mkdir(parents=True, exist_ok=True)
    import keras

    keras.utils.set_random_seed(3)
    build_model(manifest.model, CONTRACT, manifest.encoding, networks).save(path)
    return bundle_folder.write_bundle(models, manifest, {MODEL_FILE: path.read_bytes()})
