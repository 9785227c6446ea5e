"""Files by URI or plain path: file:, s3a:, hdfs:, abfss:.

A file that is written appears whole or not at all.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from features.core.errors import StorageError

_PYARROW_SCHEMES = {"s3a": "s3", "s3n": "s3", "wasbs": "abfss"}
"""Hadoop's scheme names to those of pyarrow."""


def locate(uri: str) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI or plain path; raises StorageError if there is no such storage."""
    scheme, mark, rest = uri.partition(":")
    if not mark or len(scheme) == 1:
        return fs.LocalFileSystem(), str(Path(uri).absolute())
    if scheme == "file":
        return fs.LocalFileSystem(), "/" + rest.lstrip("/")
    try:
        system, path = fs.FileSystem.from_uri(f"{_PYARROW_SCHEMES.get(scheme, scheme)}:{rest}")
        return system, path
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(f"cannot open storage {uri}: {error}") from error


def join(uri: str, *parts: str) -> str:
    """`uri` with further path parts."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Whether there is a file at `uri`."""
    system, path = locate(uri)
    with _named(uri):
        return bool(system.get_file_info(path).type == fs.FileType.File)


def read_bytes(uri: str) -> bytes:
    """The whole file; raises FileNotFoundError if there is none, StorageError if it cannot be read."""
    system, path = locate(uri)
    with _named(uri), system.open_input_file(path) as file:
        return bytes(file.read())


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file under a temporary name and move it into place."""
    with writing(uri) as file:
        file.write(content)


@contextmanager
def opened(uri: str) -> Iterator[pa.NativeFile]:
    """A file open for reading, at any position."""
    system, path = locate(uri)
    with system.open_input_file(path) as file:
        yield file


@contextmanager
def created(uri: str) -> Iterator[pa.NativeFile]:
    """A new file open for writing, under a name that nobody else knows yet: it needs no temporary name."""
    system, path = locate(uri)
    with _named(uri):
        system.create_dir(posixpath.dirname(path), recursive=True)
        with system.open_output_stream(path) as file:
            yield file


@contextmanager
def writing(uri: str) -> Iterator[pa.NativeFile]:
    """A file open for writing; it appears at `uri` when the block ends well, and not at all otherwise."""
    system, path = locate(uri)
    folder, name = posixpath.split(path)
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.part"
    with _named(uri):
        system.create_dir(folder, recursive=True)
        try:
            with system.open_output_stream(temporary) as file:
                yield file
            if system.type_name == "hdfs" and system.get_file_info(path).type == fs.FileType.File:
                system.delete_file(path)  # HDFS does not rename onto an existing file, all others do
            system.move(temporary, path)
        except BaseException:
            if system.get_file_info(temporary).type == fs.FileType.File:
                system.delete_file(temporary)
            raise


def delete_folder(uri: str) -> None:
    """Remove a folder and all in it; nothing happens if there is none."""
    system, path = locate(uri)
    with _named(uri):
        if system.get_file_info(path).type == fs.FileType.Directory:
            system.delete_dir(path)


@contextmanager
def _named(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"storage {uri}: {error}") from error
