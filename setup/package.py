"""Zips jobs, features and training for --py-files; equal sources give an equal zip."""

import sys
import zipfile
from pathlib import Path

FIRST_DATE_OF_ZIP = (1980, 1, 1, 0, 0, 0)

Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)


with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive:
    for package in ("features", "jobs", "training"):
        for path in sorted(Path(package).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".j2", ".properties"):
                archive.writestr(zipfile.ZipInfo(str(path), FIRST_DATE_OF_ZIP), path.read_bytes(), zipfile.ZIP_DEFLATED)
