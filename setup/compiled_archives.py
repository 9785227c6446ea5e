"""Puts compiled modules into the archives that Spark's Python workers import pyspark from; does it once.

Spark hands its workers `pyspark.zip`, which has sources alone, and nothing that Python compiles can be kept in an
archive: without this every worker and every rank compiles a hundred modules anew, a second or two of a core.
"""

from __future__ import annotations

import importlib.util
import py_compile
import tempfile
import zipfile
from pathlib import Path


def main() -> None:
    """Each archive of the installed pyspark that has none yet."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    for archive in sorted((Path(spec.origin).parent / "python" / "lib").glob("*.zip")):
        with zipfile.ZipFile(archive) as file:
            if not any(name.endswith(".pyc") for name in file.namelist()):
                compile_into(file, archive)


def compile_into(file: zipfile.ZipFile, archive: Path) -> None:
    """Replace an archive by one with each module compiled beside its source; readers see the old one or the new one."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        source, compiled, whole = (Path(folder) / name for name in ("source.py", "compiled.pyc", archive.name))
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as made:
            for entry in file.infolist():
                content = file.read(entry)
                made.writestr(entry.filename, content)
                if not entry.filename.endswith(".py"):
                    continue
                source.write_bytes(content)
                # By a hash that nobody checks: within an archive the time of a source may be off by two seconds.
                unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
                shown = f"{archive}/{entry.filename}"
                py_compile.compile(str(source), str(compiled), shown, doraise=True, invalidation_mode=unchecked)
                made.write(compiled, f"{entry.filename}c")
        whole.replace(archive)


if __name__ == "__main__":
    main()
