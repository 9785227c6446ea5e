"""Bundles: whole or not at all, checked when read, and fitting or refused by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest

from features.core import places
from features.core.errors import BundleError, DateError, StorageError
from tests.data.training_examples import CONTRACT, SMALL, encoding_of, example_rows, manifest_of
from training.bundles import bundle_folder
from training.bundles.bundle_folder import LATEST, MODEL_FILE, read_manifest, settle, write_bundle
from training.bundles.manifest import Manifest, check_fits, check_no_overlap
from training.judging.calibration import Calibration
from training.judging.drift import PREDICTED_TIER, Profile
from training.judging.verdict import Verdict

PROFILE = Profile.of({"events": np.arange(9.0), PREDICTED_TIER: np.arange(9.0) % 3}, 3, 4)


@pytest.fixture
def manifest() -> Manifest:
    return manifest_of(
        CONTRACT,
        encoding_of(example_rows(40)),
        parameters=SMALL["hybrid"],
        version="hybrid-2025-03-01-abc",
        training_dates=(dt.date(2025, 1, 1), dt.date(2025, 2, 1)),
        validation_date=dt.date(2025, 3, 1),
        metrics={"validation_loss": 0.5},
        history=[{"epoch": 1.0, "loss": 0.9}],
        provenance={"tables": {"sequences": 3}},
        libraries=bundle_folder.library_versions(),
        created_at="2025-06-01T00:00:00+00:00",
    )


def published(models: str, manifest: Manifest, contents: bytes) -> Manifest:
    """A bundle that has passed the gate."""
    verdict = Verdict((), {"model": 0.5}, (), {})
    whole = write_bundle(models, manifest, {MODEL_FILE: contents})
    judged = settle(models, whole, manifest.calibration, PROFILE, verdict)
    bundle_folder.point_latest(models, judged.version)
    return judged


@pytest.fixture
def models(tmp_path: Path) -> str:
    return str(tmp_path / "models")


def test_what_is_written_is_read(models: str, manifest: Manifest) -> None:
    whole = published(models, manifest, b"weights")
    assert read_manifest(models, manifest.version) == whole == read_manifest(models, LATEST)
    assert bundle_folder.read_file(models, whole, MODEL_FILE) == b"weights"


def test_latest_names_the_newest_bundle(models: str, manifest: Manifest) -> None:
    published(models, manifest, b"one")
    published(models, dataclasses.replace(manifest, version="second"), b"two")
    assert read_manifest(models, LATEST).version == "second"
    bundle_folder.point_latest(models, manifest.version)
    assert read_manifest(models, LATEST).version == manifest.version


def test_latest_stays_where_it_is_until_a_bundle_is_published(models: str, manifest: Manifest) -> None:
    published(models, manifest, b"one")
    other = write_bundle(models, dataclasses.replace(manifest, version="second"), {MODEL_FILE: b"two"})
    assert read_manifest(models, LATEST).version == manifest.version
    calibration = Calibration((0.5, 1.0, 2.0), ((0.0, 0.1, 0.2),) * 3)
    refused = settle(models, other, calibration, PROFILE, Verdict(("it is bad",), {"model": 9.0}, (), {}))
    assert read_manifest(models, LATEST).version == manifest.version
    assert read_manifest(models, "second") == refused
    assert refused.calibration == calibration
    assert refused.profile == PROFILE
    assert refused.verdict is not None
    assert not refused.verdict.published


def test_no_bundle(models: str) -> None:
    with pytest.raises(BundleError, match=r"no model is published under .*: run train_model first"):
        read_manifest(models, LATEST)
    with pytest.raises(BundleError, match="no whole bundle 'v9'"):
        read_manifest(models, "v9")


def test_a_truncated_file_is_named(models: str, manifest: Manifest) -> None:
    published(models, manifest, b"weights")
    path = Path(models, manifest.version, MODEL_FILE)
    path.write_bytes(path.read_bytes()[:3])
    with pytest.raises(BundleError, match=r"model.keras is damaged: its SHA-256 is .* run train_model again"):
        read_manifest(models, LATEST)


def test_a_missing_file_is_named(models: str, manifest: Manifest) -> None:
    published(models, manifest, b"weights")
    Path(models, manifest.version, MODEL_FILE).unlink()
    with pytest.raises(BundleError, match=r"model.keras is missing"):
        read_manifest(models, LATEST)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:50], "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"format": 99}), "has format 99 and this release reads 4"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "contract"}), "damaged .*contract"),
        (lambda text: json.dumps(json.loads(text) | {"files": {}}), "lists no model.keras"),
    ],
)
def test_a_damaged_manifest_is_named(models: str, manifest: Manifest, edit: object, message: str) -> None:
    published(models, manifest, b"weights")
    path = Path(models, manifest.version, "manifest.json")
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(BundleError, match=message):
        read_manifest(models, LATEST)


def test_a_damaged_pointer_is_named(models: str, manifest: Manifest) -> None:
    published(models, manifest, b"weights")
    Path(models, "latest.json").write_text("{}")
    with pytest.raises(BundleError, match=r"latest.json does not name a version"):
        read_manifest(models, LATEST)


def test_a_bundle_that_stops_half_way_is_not_there(
    models: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 7: killed between the files and the manifest, the last good bundle stays `latest`."""
    published(models, manifest, b"good")
    real = places.write_bytes

    def failing(address: str, content: bytes) -> None:
        if address.endswith("manifest.json"):
            raise StorageError("no space left")
        real(address, content)

    monkeypatch.setattr(places, "write_bytes", failing)
    with pytest.raises(StorageError, match="no space left"):
        write_bundle(models, dataclasses.replace(manifest, version="second"), {MODEL_FILE: b"new"})
    assert read_manifest(models, LATEST).version == manifest.version
    with pytest.raises(BundleError, match="no whole bundle 'second'"):
        read_manifest(models, "second")


def test_storage_that_cannot_be_written_is_named(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="models"):
        write_bundle(str(tmp_path / "models"), manifest, {MODEL_FILE: b"weights"})


def test_another_contract_is_refused_with_both_sides(manifest: Manifest) -> None:
    check_fits(manifest, CONTRACT)
    other = dataclasses.replace(CONTRACT, length=64, tiers=("base", "gold"))
    with pytest.raises(BundleError, match=r"(?s)length: 40 against 64.*tiers: .*silver.* against \['base', 'gold'\]"):
        check_fits(manifest, other)


def test_another_tier_rule_is_refused_with_both_sides(manifest: Manifest) -> None:
    other = dataclasses.replace(CONTRACT, tier_rule=json.dumps({"spend": [300, 700]}))
    with pytest.raises(BundleError, match=r"tier_rule: .*250.* against .*300"):
        check_fits(manifest, other)


def test_training_windows_must_not_overlap_the_evaluated_horizon(manifest: Manifest) -> None:
    """Invariant 9: the last window starts on 2025-03-01 and ends before 2025-05-30."""
    check_no_overlap(manifest, dt.date(2025, 5, 30))
    with pytest.raises(DateError, match=r"outcomes up to 2025-05-30 .*2025-03-01.* evaluated as-of date 2025-05-29"):
        check_no_overlap(manifest, dt.date(2025, 5, 29))


def test_bad_input_outputs_that_the_network_does_not_give(manifest: Manifest) -> None:
    check_fits(manifest, CONTRACT, ["value"])
    with pytest.raises(
        BundleError, match=r"scoring.outputs asks for tier_7d, inactive.*beside the tier it gives value:"
    ):
        check_fits(manifest, CONTRACT, ["tier_7d", "value", "inactive"])


def test_a_model_is_loaded_in_safe_mode(models: str, manifest: Manifest, tmp_path: Path) -> None:
    from training.models.create import build_model

    model = build_model(manifest.model, CONTRACT, manifest.encoding)
    model.save(tmp_path / MODEL_FILE)
    whole = write_bundle(models, manifest, {MODEL_FILE: (tmp_path / MODEL_FILE).read_bytes()})
    loaded = bundle_folder.load_model(models, whole)
    for mine, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_what_is_not_a_model_is_refused(models: str, manifest: Manifest) -> None:
    whole = write_bundle(models, manifest, {MODEL_FILE: b"not a model"})
    with pytest.raises(BundleError, match="cannot be loaded"):
        bundle_folder.load_model(models, whole)


def test_libraries_are_recorded() -> None:
    assert {"keras", "numpy", "horovod", "pyarrow"} <= set(bundle_folder.library_versions())
