"""Files behind URIs appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from features.core import places
from features.core.errors import StorageError


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_local_forms_name_the_same_file(tmp_path: Path, form: str) -> None:
    address = form.format(tmp_path / "a folder" / "x.bin")
    assert not places.exists(address)
    places.write_bytes(address, b"1")
    places.write_bytes(address, b"22")
    assert places.read_bytes(address) == b"22"
    assert places.exists(address)
    assert [p.name for p in (tmp_path / "a folder").iterdir()] == ["x.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    address = str(tmp_path / "x.bin")
    places.write_bytes(address, b"old")
    with pytest.raises(ZeroDivisionError), places.writing(address) as file:
        file.write(b"half" * (1 // 0))
    assert places.read_bytes(address) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_hadoop_names_reach_the_same_storage() -> None:
    system, path = places.locate("s3a://bucket/a/b?region=eu-west-1")
    assert isinstance(system, fs.S3FileSystem)
    assert path == "bucket/a/b"


def test_unknown_storage_is_named() -> None:
    with pytest.raises(StorageError, match="cannot open storage gopher://x/y"):
        places.locate("gopher://x/y")


def test_a_missing_file_is_told_from_broken_storage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        places.read_bytes(str(tmp_path / "absent"))
    with pytest.raises(StorageError):
        places.read_bytes(str(tmp_path))


def test_folders_are_removed_if_they_are_there(tmp_path: Path) -> None:
    places.write_bytes(places.join(str(tmp_path), "work", "x"), b"1")
    places.delete_folder(str(tmp_path / "work"))
    places.delete_folder(str(tmp_path / "work"))
    assert list(tmp_path.iterdir()) == []
