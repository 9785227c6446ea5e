"""Prints every dependency that pyproject.toml names, extras too, one a line."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extras = project["optional-dependencies"].values()
sys.stdout.write("\n".join([*project["dependencies"], *(name for extra in extras for name in extra), ""]))
